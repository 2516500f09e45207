"""The monitor's table: what is a run, in which state, and nothing from outside the log folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import psutil
import pytest

from monitor.i18n import Words
from monitor.runs import Row
from monitor.store import Monitor
from monitor.tables import filter_rows, runs_table, sort_rows


def make_run(root: Path, name: str, lines: list[dict] = (), **fields) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    run = {"name": name, "algorithm": "grpo", "model_name": "demo", "state": "finished", "host": os.uname().nodename}
    run |= {"started": "2026-11-20T15:28:28+00:00", "knobs": {"TOTAL_STEPS": "20"}} | fields
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def step(number, **data):
    return {"step": number, "data": data}


def rows(root: Path) -> dict[str, Row]:
    return Monitor(root).rows()


def test_a_run_in_the_table(tmp_path):
    records = [step(n, **{"critic/score/mean": n / 10, "timing_s/step": 2.0}) for n in range(1, 6)]
    me = psutil.Process()
    make_run(tmp_path, "a", records, state="running", pid=me.pid, pid_started=me.create_time())
    row = rows(tmp_path)["a"]
    assert (row.algorithm, row.model, row.state, row.step, row.total) == ("grpo", "demo", "running", 5, 20)
    assert (row.metric, row.value, row.step_time, row.eta) == ("reward_mean", 0.5, 2.0, 30.0)


def test_the_state_is_true(tmp_path):
    me = psutil.Process()
    make_run(tmp_path, "gone", state="running", pid=2**22 - 1, pid_started=1.0)
    make_run(tmp_path, "pid taken by another", state="running", pid=me.pid, pid_started=me.create_time() - 500)
    make_run(tmp_path, "elsewhere", [step(1, loss=1)], state="running", host="another-machine")
    old = make_run(tmp_path, "elsewhere, silent", [step(1, loss=1)], state="running", host="another-machine")
    os.utime(old / "metrics.jsonl", (1, 1))
    make_run(tmp_path, "failed", state="failed", reason="out of memory")
    found = {name: row.state for name, row in rows(tmp_path).items()}
    assert found == {
        "gone": "died",
        "pid taken by another": "died",
        "elsewhere": "running",
        "elsewhere, silent": "silent",
        "failed": "failed",
    }


def test_the_table_follows(tmp_path):
    monitor = Monitor(tmp_path / "later")
    assert monitor.rows() == {} and monitor.problem == "missing"
    folder = make_run(tmp_path / "later", "a", [step(1, loss=3.0)], state="running", host="another-machine")
    monitor._scanned = -10
    assert monitor.rows()["a"].value == 3.0 and monitor.problem == ""
    version = monitor.version()
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(step(2, loss=2.0)) + "\n")
    monitor._scanned = -10
    assert monitor.rows()["a"].value == 2.0 and monitor.version() > version


def test_plain_logs_and_tensorboard_folders(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "old.log").write_text("Step 100/10000 | Loss: 0.234\n")
    (tmp_path / "loose.jsonl").write_text('{"step": 7, "loss": 0.5}\n')
    (tmp_path / "requirements.txt").write_text("x\n")
    found = rows(tmp_path)
    assert found.keys() == {"logs/old.log", "loose.jsonl"}
    assert (found["logs/old.log"].step, found["logs/old.log"].total, found["logs/old.log"].value) == (100, 10000, 0.234)
    assert found["loose.jsonl"].state == "live"


def test_a_run_inside_a_run_is_found(tmp_path):
    make_run(tmp_path, "self-play")
    make_run(tmp_path / "self-play", "round_1")
    make_run(tmp_path / "self-play", "checkpoints")  # not looked into
    assert set(rows(tmp_path)) == {"self-play", "self-play/round_1"}


@pytest.mark.parametrize("damage", ["run.json", "metrics.jsonl", "both", "half", "binary", "list", "folder"])
def test_a_damaged_run_stays_in_the_table(tmp_path, damage):
    folder = make_run(tmp_path, "a", [step(3, loss=1.0)])
    (folder / "train.log").write_bytes(b"\xff\xfe\x00 step:3 - train/loss:1.0\n")
    if damage in ("run.json", "both"):
        (folder / "run.json").unlink()
    if damage in ("metrics.jsonl", "both"):
        (folder / "metrics.jsonl").unlink()
    if damage == "half":
        (folder / "run.json").write_text('{"state": "fin')
    if damage == "binary":
        (folder / "run.json").write_bytes(os.urandom(500))
    if damage == "list":
        (folder / "run.json").write_text('[1, {"knobs": 3}]')
    if damage == "folder":
        (folder / "run.json").unlink()
        (folder / "run.json").mkdir()
    assert rows(tmp_path)["a"].value == 1.0 or damage in ("metrics.jsonl", "both")
    assert rows(tmp_path)["a"].step == 3


def test_a_folder_that_cannot_be_shown(tmp_path):
    (tmp_path / "file").write_text("")
    monitor = Monitor(tmp_path / "file")
    assert monitor.rows() == {} and monitor.problem == "not_a_folder"


def test_links_that_lead_out_are_not_followed(tmp_path):
    outside = make_run(tmp_path, "outside", [step(1, loss=1.0)])
    (outside / "rollouts").mkdir()
    inside = make_run(tmp_path / "logs", "a")
    (tmp_path / "logs" / "link").symlink_to(outside)
    (tmp_path / "logs" / "secret.log").symlink_to("/etc/passwd")
    (inside / "rollouts").symlink_to(outside / "rollouts")
    monitor = Monitor(tmp_path / "logs")
    assert set(monitor.rows()) == {"a"}
    assert monitor.file("a", "rollouts") is None
    assert monitor.file("a", "run.json") is not None
    assert monitor.file("a", "../../outside/run.json") is None
    for name in ("../outside", "/etc/passwd", "", None, "a/../a"):
        assert monitor.row(name) is None and monitor.metrics(name) is None


def test_two_hundred_runs_are_quick(tmp_path):
    for number in range(200):
        make_run(tmp_path, f"run-{number}", [step(n, loss=1.0 / n) for n in range(1, 100)])
    start = time.process_time()
    assert len(rows(tmp_path)) == 200
    assert time.process_time() - start < 3


def test_sort_and_filter(tmp_path):
    make_run(tmp_path, "b", [step(1, loss=1.0)], started="2026-11-20T10:00:00+00:00")
    make_run(tmp_path, "a", [step(9, loss=2.0)], started="2026-11-21T10:00:00+00:00", algorithm="sft")
    make_run(tmp_path, "c", state="failed", started="2026-11-22T10:00:00+00:00")
    found = list(rows(tmp_path).values())
    assert [row.id for row in found] == ["c", "a", "b"]
    assert [row.id for row in sort_rows(found, "name", False)] == ["a", "b", "c"]
    assert [row.id for row in sort_rows(found, "value", True)] == ["a", "b", "c"]  # no value: last
    assert [row.id for row in sort_rows(found, "value", False)] == ["b", "a", "c"]
    assert [row.id for row in filter_rows(found, "SFT demo", "")] == ["a"]
    assert [row.id for row in filter_rows(found, "", "failed")] == ["c"]


def test_what_a_run_calls_itself_is_escaped(tmp_path):
    make_run(
        tmp_path, "<img src=x onerror=1>", algorithm="<b>x", model_name='"><script>', reason="'<i>", state="failed"
    )
    page = runs_table(list(rows(tmp_path).values()), None, "name", False, Words("en"))
    assert (
        "<img" not in page
        and "<script" not in page
        and "<b>x" not in page
        and "<i>" not in page.replace("<i style", "")
    )
