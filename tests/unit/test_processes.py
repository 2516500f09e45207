"""Processes of a run are found and ended whatever session they moved to."""

import subprocess
import sys
import time

import pytest

from common.run_dir import read_run, update_run
from common.runner import processes
from common.runner.follow import MetricsTail, Tail
from common.runner.watchdog import GOODBYE

# A parent that starts a child in another session, as Ray does; both ignore SIGTERM when told to.
FAMILY = """
import signal, subprocess, sys, time
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(
    [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"],
    start_new_session=True,
)
time.sleep(60)
"""


def start_family(tmp_path, kind, mark):
    import os

    log = tmp_path / "train.log"
    parent = processes.start([sys.executable, "-c", FAMILY, kind], dict(os.environ), mark, log)
    deadline = time.monotonic() + 20
    while b"1" not in log.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return parent


@pytest.mark.parametrize("kind", ["mild", "stubborn"])
def test_end_ends_children_in_other_sessions(tmp_path, kind):
    mark = f"test-{kind}-{time.time()}"
    parent = start_family(tmp_path, kind, mark)
    assert len(processes.find(mark)) == 2
    assert processes.end(mark, grace=0.5) == 2
    assert processes.find(mark) == []
    assert parent.wait(5) != 0


def test_others_are_left_alone(tmp_path):
    mark, other = f"a-{time.time()}", f"b-{time.time()}"
    start_family(tmp_path, "mild", mark)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={processes.MARK: other})
    try:
        processes.end(mark, grace=0.5)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("goodbye", [True, False])
def test_watchdog(tmp_path, goodbye):
    """With a goodbye it leaves the run alone; when the launcher dies without one, it ends the run and says so."""
    mark = f"test-{goodbye}-{time.time()}"
    update_run(tmp_path, state="running")
    start_family(tmp_path, "mild", mark)
    command = [sys.executable, "-m", "common.runner.watchdog", str(tmp_path), mark]
    watchdog = subprocess.Popen(command, stdin=subprocess.PIPE)
    watchdog.communicate(GOODBYE if goodbye else b"", timeout=30)
    left = len(processes.find(mark))
    processes.end(mark, grace=0.2)
    if goodbye:
        assert left == 2 and read_run(tmp_path)["state"] == "running"
    else:
        assert left == 0 and read_run(tmp_path)["state"] == "failed"
        assert "launcher was killed" in read_run(tmp_path)["reason"]


def test_tail_waits_for_the_end_of_a_line_and_reads_progress_bars(tmp_path):
    path = tmp_path / "log"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_bytes("one\ntwo 数".encode()[:-1])  # torn inside a character
    assert tail.lines() == ["one"]
    with path.open("ab") as stream:
        stream.write("数".encode()[-1:] + b"\n10%\r20%\r")
    assert tail.lines() == ["two 数", "10%", "20%"]


def test_metrics_tail(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    path.write_text('{"step": 1, "data": {}}\n{"step": 2')
    assert [record["step"] for record in tail.records()] == [1]
    with path.open("a") as stream:
        stream.write(', "data": {}}\n')
    assert [record["step"] for record in tail.records()] == [2]
