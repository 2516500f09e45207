"""The view of a run may fail, the run may not; its last state is always written."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from common.checkpoints.layout import checkpoint_at, checkpoints_of
from common.run_dir import metrics_path, read_metrics, read_run
from common.runner.attempt import Attempt
from common.tail import MetricsTail
from tests.conftest import ROOT
from tests.run_maker import complete

# A launcher whose model is taken for exported, and a trainer of a few steps that are logged as verl logs them.
LAUNCHER = """
import os, sys
from common.runner.attempt import Attempt
Attempt._finish_model = lambda self, terminal: True
Attempt._draw = lambda self, terminal: None
sys.exit(Attempt([sys.executable, "-c", os.environ["TRAINER"]], os.environ).run())
"""
TRAINER = """
import json, os, time
for step in range(1, 7):
    with open(os.environ["VERL_FILE_LOGGER_PATH"], "a") as log:
        {before}
        log.write(json.dumps({{"step": step, "data": {{"critic/score/mean": 0.5, "actor/pg_loss": 0.1}}}}) + chr(10))
    time.sleep(0.3)
"""


def environment(tmp_path, before="pass"):
    knobs = {"MODEL_PATH": "demo", "DEVICE": "cpu", "TRAIN_DATA": "a.parquet", "VAL_DATA": "b.parquet"}
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RUN_DIR": str(tmp_path / "run"),
        "KNOBS_JSON": json.dumps(knobs),
        "ALGORITHM": "grpo",
        "TRAINER": TRAINER.format(before=before),
    }


def steps_logged(run_dir):
    path = metrics_path(run_dir, 1)
    return path.read_text().count("\n") if path.is_file() else 0


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_hang_up_ends_a_run_but_not_one_under_nohup(tmp_path):
    for name, before, state in (("under-nohup", signal.SIG_IGN, "finished"), ("plain", signal.SIG_DFL, "stopped")):
        folder = tmp_path / name
        launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER],
            env=environment(folder),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda kind=before: signal.signal(signal.SIGHUP, kind),  # what nohup does
        )
        wait_for(lambda folder=folder: steps_logged(folder / "run") >= 2)
        launcher.send_signal(signal.SIGHUP)
        assert launcher.wait(60) == (0 if state == "finished" else 128 + signal.SIGHUP)
        assert read_run(folder / "run")["state"] == state
        assert (steps_logged(folder / "run") == 6) == (state == "finished")


@pytest.mark.parametrize("reader", ['sed -u "/Step 2/q"', "true"])
def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path, reader):
    command = f'"{sys.executable}" -c "$LAUNCHER" 2>&1 | {reader}; exit "${{PIPESTATUS[0]}}"'
    variables = environment(tmp_path) | {"LAUNCHER": LAUNCHER}
    done = subprocess.run(["bash", "-c", command], env=variables, cwd=ROOT, capture_output=True, timeout=90)
    assert done.returncode == 0
    assert steps_logged(tmp_path / "run") == 6
    run = read_run(tmp_path / "run")
    assert run["state"] == "finished" and run["exit_status"] == 0


def test_lines_that_are_no_records_are_passed_over_and_counted(tmp_path):
    variables = environment(tmp_path, before='log.write("{torn" + chr(10))')
    done = subprocess.run([sys.executable, "-c", LAUNCHER], env=variables, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and read_run(tmp_path / "run")["state"] == "finished"
    assert "not a record and was skipped" in done.stdout and "6 lines were not records" in done.stdout


@pytest.mark.parametrize(
    "line", ["[1]", '{"step": 1}', '{"step": true, "data": {}}', '{"step": ' + "9" * 5000 + ', "data": {}}', "\xff{"]
)
def test_what_is_no_record(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line.encode("latin-1") + b'\n{"step": 3, "data": {"a": 1}}\n{"step": 4, "da')
    tail = MetricsTail(path)
    assert [record["step"] for record in tail.records()] == [3] and tail.bad == 1


def test_a_log_that_was_emptied_is_read_from_its_start(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "data": {"a": 1}}\n' * 3)
    tail = MetricsTail(path)
    assert len(tail.records()) == 3
    path.write_text('{"step": 9, "data": {"a": 1}}\n')
    assert [record["step"] for record in tail.records()] == [9]


def test_a_run_that_goes_on_from_another_takes_up_its_curve(tmp_path):
    folder = complete(tmp_path)
    lines = [{"step": step, "data": {"actor/loss": step / 10}} for step in (1, 2, 3, 4, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    new = tmp_path / "outputs" / "new"
    environment = {"RUN_DIR": str(new), "KNOBS_JSON": "{}", "ALGORITHM": "grpo"}
    environment["RESUME_FROM"] = str(folder / "checkpoints" / "global_step_4")
    attempt = Attempt(["true"], environment)
    assert attempt.number == 2 and not new.exists()
    new.mkdir()
    attempt._take_up(checkpoint_at(attempt.resume_from))
    assert [record["step"] for record in read_metrics(new)] == [1, 2, 3, 4]


def test_going_back_sets_later_checkpoints_aside(tmp_path):
    folder = complete(tmp_path, steps=(2, 4, 6))
    (folder / "metrics.jsonl").touch()
    environment = {"RUN_DIR": str(folder), "KNOBS_JSON": "{}", "ALGORITHM": "grpo"}
    environment["RESUME_FROM"] = str(folder / "checkpoints" / "global_step_2")
    attempt = Attempt(["true"], environment)
    attempt._take_up(checkpoint_at(attempt.resume_from))
    assert [checkpoint.step for checkpoint in checkpoints_of(folder)] == [2]
    assert (folder / "checkpoints" / "global_step_6_before_attempt_2" / "complete.json").is_file()
