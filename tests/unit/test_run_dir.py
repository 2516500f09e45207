"""The run directory: joining attempts, finding checkpoints, replacing files."""

import json
import os
import time
from pathlib import Path

import psutil
import pytest

from common import run_dir
from common.demo_model import DEMO_MODEL_DIR
from common.files import ROOT, outputs_folder, write_atomically
from common.runner.heartbeat import Heartbeat


def record(step, **data):
    return {"step": step, "data": data}


def test_later_attempt_wins_and_there_is_no_gap_and_no_double_step():
    first = [record(0, **{"val-core/x": 0.1})] + [record(s, **{"actor/pg_loss": s}) for s in (1, 2, 3, 4, 5)]
    # resumed from the checkpoint of step 3: validates as step 3, then trains 4, 5, 6
    second = [record(3, **{"val-core/x": 0.3})] + [record(s, **{"actor/pg_loss": 10 * s}) for s in (4, 5, 6)]
    joined = run_dir.join_attempts([first, second])
    assert [entry["step"] for entry in joined] == [0, 1, 2, 3, 4, 5, 6]
    assert joined[3]["data"] == {"actor/pg_loss": 3, "val-core/x": 0.3}
    assert [entry["data"]["actor/pg_loss"] for entry in joined[4:]] == [40, 50, 60]


def test_steps_that_did_not_lead_to_the_model_go():
    first = [record(s, **{"train/loss": s}) for s in range(1, 9)]
    second = [record(s, **{"train/loss": -s}) for s in (5, 6)]
    assert [entry["step"] for entry in run_dir.join_attempts([first, second])] == [1, 2, 3, 4, 5, 6]


def test_an_attempt_that_trained_nothing_changes_nothing():
    first = [record(1, **{"train/loss": 1.0})]
    assert run_dir.join_attempts([first, []]) == first


def test_train_and_validation_of_one_step_are_one_record():
    rows = [record(2, **{"train/loss": 1.0}), record(2, **{"val/loss": 2.0})]
    assert run_dir.join_attempts([rows]) == [record(2, **{"train/loss": 1.0, "val/loss": 2.0})]


def test_a_torn_last_line_waits(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(record(1)) + "\n" + '{"step": 2, "da')
    assert run_dir.read_records(path) == [record(1)]


def test_metrics_files_are_ordered_by_number(tmp_path):
    for name in ("metrics.10.jsonl", "metrics.2.jsonl", "metrics.jsonl", "metrics.old.jsonl"):
        (tmp_path / name).touch()
    assert [path.name for path in run_dir.metrics_files(tmp_path)] == [
        "metrics.jsonl",
        "metrics.2.jsonl",
        "metrics.10.jsonl",
    ]
    assert run_dir.metrics_path(tmp_path, 1).name == "metrics.jsonl"
    assert run_dir.metrics_path(tmp_path, 3).name == "metrics.3.jsonl"


def test_update_run_keeps_other_fields_and_leaves_no_temporary_file(tmp_path):
    run_dir.update_run(tmp_path, state="running", name="数据")
    run_dir.update_run(tmp_path, state="finished")
    assert run_dir.read_run(tmp_path) == {"state": "finished", "name": "数据"}
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"knobs": []}', '{"data": 5}', "[" * 10**5, "9" * 5000, "\\xff"])
def test_a_damaged_run_file_is_named(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text.encode().replace(b"\\xff", b"\xff"))
    with pytest.raises(ValueError, match=r"run\.json: is not .*; bring it back"):
        run_dir.read_run(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    run_dir.update_run(tmp_path, state="running")
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        run_dir.update_run(tmp_path, state="finished")
    assert run_dir.read_run(tmp_path)["state"] == "running"
    assert os.listdir(tmp_path) == ["run.json"]


def test_is_alive_knows_a_reused_pid():
    me = {"state": "running", "host": os.uname().nodename, "pid": os.getpid()}
    assert run_dir.is_alive({**me, "pid_started": psutil.Process().create_time()})
    assert not run_dir.is_alive({**me, "pid_started": psutil.Process().create_time() - 60})
    assert not run_dir.is_alive({**me, "pid_started": psutil.Process().create_time(), "state": "finished"})


def test_a_model_is_called_as_a_person_would():
    names = {"/models/Qwen3-4B": "Qwen3-4B", "Qwen/Qwen3-4B": "Qwen3-4B", "outputs/my-run/model": "my-run"}
    assert {path: run_dir.short_model_name(path) for path in names} == names
    assert run_dir.short_model_name(str(DEMO_MODEL_DIR)) == "demo"


@pytest.mark.parametrize(
    ("umask", "file", "program"), [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755), (0o002, 0o664, 0o775)]
)
def test_files_are_as_open_as_the_umask_says(tmp_path, umask, file, program):
    before = os.umask(umask)
    try:
        run_dir.update_run(tmp_path, state="running")
        write_atomically(tmp_path / "command.sh", "#!/bin/sh\n", executable=True)
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("run.json", "command.sh")]
    assert modes == [file, program]
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "command.sh"}


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({}, ROOT / "outputs"),
        ({"OUTPUTS_DIR": ""}, ROOT / "outputs"),
        ({"OUTPUTS_DIR": "/shared/runs"}, Path("/shared/runs")),
        ({"OUTPUTS_DIR": "runs", "CALLER_DIR": "/home/me"}, Path("/home/me/runs")),
        ({"OUTPUTS_DIR": "../runs", "CALLER_DIR": "/home/me"}, Path("/home/runs")),
    ],
)
def test_the_folder_of_runs_is_a_setting_meant_from_where_the_user_is(environment, folder):
    assert outputs_folder(environment) == folder


def test_what_resumes_a_run_names_its_folder_where_it_is_not_the_usual_one():
    assert run_dir.resume_command(ROOT / "outputs" / "a", "sft") == "EXPERIMENT_NAME=a ./sft/train.sh"
    elsewhere = run_dir.resume_command(Path("/my disk/a"), "dpo")
    assert elsewhere == "OUTPUTS_DIR='/my disk' EXPERIMENT_NAME=a ./dpo/train.sh"


def test_a_run_on_another_host_lives_as_long_as_its_heartbeat(tmp_path):
    """On a disk that hosts share; its process cannot be asked from here."""
    there = {"state": "running", "host": "another-host", "pid": 1, "pid_started": 0}
    assert not run_dir.is_alive(there, tmp_path)
    beat = Heartbeat(tmp_path)
    file = tmp_path / run_dir.BEAT_FILE
    until = time.monotonic() + 10
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert run_dir.is_alive(there, tmp_path) and not run_dir.is_alive({**there, "state": "failed"}, tmp_path)
    assert not run_dir.is_alive(there)
    os.utime(file, (0, time.time() - run_dir.DEAD_SECONDS - 1))
    assert not run_dir.is_alive(there, tmp_path)
    beat.stop()
    assert not file.exists()
