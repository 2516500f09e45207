"""Processes of a run are ended whatever session they moved to and however the launcher dies."""

import subprocess
import sys
import time

import psutil
import pytest

from common.run_dir import read_run, update_run
from common.runner.supervisor import STOP
from common.tail import MetricsTail, Tail
from tests.conftest import ROOT

# A trainer that starts a daemon in another session through a process that ends at once, as Ray does, and a child.
# What it starts ignores SIGTERM; so does it itself when it is stubborn.
TRAINER = """
import pathlib, signal, subprocess, sys, time
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)"
start = (
    "import subprocess, sys; quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}; "
    f"print(subprocess.Popen([sys.executable, '-c', {stubborn!r}], **quiet, start_new_session=True).pid)"
)
daemon = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True).stdout.strip()
child = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True).pid
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(0.3)
pathlib.Path(sys.argv[2]).write_text(f"{daemon} {child}")
if sys.argv[1] == "ends":
    sys.exit(7)
time.sleep(120)
"""


def start_supervisor(tmp_path, kind):
    """Start a supervisor with a trainer under it; returns the supervisor and the processes below the trainer."""
    pids = tmp_path / "pids"
    update_run(tmp_path, state="running")
    command = [sys.executable, "-m", "common.runner.supervisor", str(tmp_path), "--"]
    supervisor = subprocess.Popen(
        [*command, sys.executable, "-c", TRAINER, kind, str(pids)], stdin=subprocess.PIPE, cwd=ROOT
    )
    deadline = time.monotonic() + 30
    while not pids.exists() or len(pids.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return supervisor, [int(pid) for pid in pids.read_text().split()]


@pytest.mark.parametrize("kind", ["mild", "stubborn"])
def test_asked_to_stop_it_ends_daemons_in_other_sessions_too(tmp_path, kind):
    supervisor, below = start_supervisor(tmp_path, kind)
    assert all(psutil.pid_exists(pid) for pid in below)
    supervisor.communicate(STOP, timeout=20)
    assert not any(psutil.pid_exists(pid) for pid in below)
    assert supervisor.returncode == 128 + (9 if kind == "stubborn" else 15)
    assert read_run(tmp_path)["state"] == "running"  # the launcher writes the state


def test_when_the_launcher_dies_it_ends_the_run_and_says_so(tmp_path):
    supervisor, below = start_supervisor(tmp_path, "mild")
    supervisor.stdin.close()  # what the kernel does to the pipe of a killed launcher
    supervisor.wait(20)
    assert not any(psutil.pid_exists(pid) for pid in below)
    assert read_run(tmp_path)["state"] == "failed"
    assert "launcher was killed" in read_run(tmp_path)["reason"]


def test_when_the_trainer_ends_what_it_left_is_ended_and_its_status_passed_on(tmp_path):
    supervisor, below = start_supervisor(tmp_path, "ends")
    assert supervisor.wait(20) == 7
    assert not any(psutil.pid_exists(pid) for pid in below)


def test_when_the_supervisor_is_killed_the_trainer_dies(tmp_path):
    supervisor, below = start_supervisor(tmp_path, "stubborn")
    trainer = psutil.Process(supervisor.pid).children()[0]
    supervisor.kill()
    supervisor.wait(5)
    try:
        assert trainer.wait(5) is None or not trainer.is_running()
    finally:
        for pid in below:
            psutil.Process(pid).kill()


def test_tail_waits_for_the_end_of_a_line_and_reads_progress_bars(tmp_path):
    path = tmp_path / "log"
    tail = Tail(path, progress_bars=True)
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
