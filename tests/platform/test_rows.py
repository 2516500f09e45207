"""Numbers of a run straight from its files: the same as the monitor reads, the first at once."""

import json
import math
import os
import random

import pytest

from common.run_dir import metrics_path
from monitor.metrics_collector import RunMetrics
from training_platform.api.rows import AllRows, ReadRows, RunRows, Wanted, as_csv, as_json


def record(dice, step, validates):
    if validates:
        return {"step": step, "data": {"val-core/gsm8k/acc/mean@1": dice.random()}}
    data = {"actor/pg_loss": dice.choice([None, dice.random()]), "critic/score/mean": dice.random(), "mine": step}
    data |= {"critic/score/max": 1, "critic/score/min": 0, "response_length/mean": dice.random(), "own/x": 2}
    return {"step": step, "data": dict(dice.sample(sorted(data.items()), dice.randrange(1, len(data) + 1)))}


@pytest.fixture
def folder(tmp_path):
    """Three attempts, each from a step of another; steps that come twice or go back, and lines that are none."""
    dice = random.Random(7)
    starts = (0, 300, 200)
    for attempt, start in enumerate(starts, 1):
        lines = [json.dumps(record(dice, start, True))]
        for step in range(start, start + 400):
            lines += [json.dumps(record(dice, step, kind)) for kind in (False, True)[: 1 + (step % 10 == 0)]]
        lines[100:100] = ["", "rubbish", '{"step": 3, "data": [1]}', '{"data": {"mine": 7}, "step": 12}', '{"step": 1,']
        lines.append(json.dumps(record(dice, start + 20, False)))
        metrics_path(tmp_path, attempt).write_text("\n".join(lines) + "\n" + '{"step": 99999, "data": {"mi')
    return tmp_path


@pytest.fixture
def read(folder):
    metrics = RunMetrics(folder)
    while not metrics.poll():
        pass
    return ReadRows(metrics)


def same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys(), (left, right)
        assert all(left[name] == pytest.approx(right[name], nan_ok=True) for name in left), (left, right)


@pytest.mark.parametrize("source", ["train", "validation", "all"])
@pytest.mark.parametrize(("names", "raw"), [((), False), ((), True), (("reward_mean", "own/x", "none"), False)])
def test_the_same_as_the_monitor_reads(folder, read, source, names, raw):
    wanted = Wanted(source, names, raw)
    rows = list(RunRows(folder).rows(wanted, None, None))
    assert rows and [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    same(rows, list(read.rows(wanted, None, None)))
    for after, last in ((250, None), (None, 1), (None, 333), (500, 3), (None, 10**6), (10**6, 5)):
        chosen = [row for row in rows if after is None or row["step"] > after]
        same(list(RunRows(folder).rows(wanted, after, last)), chosen[-last:] if last else chosen)


def test_numbers_as_they_are_written(tmp_path):
    """By hand: a step's records together, the later attempt instead of the earlier, null as NaN."""
    first = [
        {"step": 1, "data": {"actor/pg_loss": 1}},
        {"step": 2, "data": {"actor/pg_loss": 2}},
        {"step": 2, "data": {"val-core/a/acc/mean@1": 0.5}},
        {"step": 3, "data": {"actor/pg_loss": 3, "word": "x", "large": 10**400}},
    ]
    second = [{"step": 2, "data": {"val-core/a/acc/mean@1": 0.75}}, {"step": 3, "data": {"actor/pg_loss": None}}]
    for attempt, records in enumerate((first, second), 1):
        metrics_path(tmp_path, attempt).write_text("".join(json.dumps(one) + "\n" for one in records))
    rows = list(RunRows(tmp_path).rows(Wanted(), None, None))
    assert rows[:2] == [{"step": 1, "policy_loss": 1.0}, {"step": 2, "policy_loss": 2.0, "val_score": 0.75}]
    assert rows[2]["step"] == 3 and math.isnan(rows[2]["policy_loss"]) and len(rows[2]) == 2
    validated = b"".join(as_json(RunRows(tmp_path).rows(Wanted("validation"), None, None)))
    assert json.loads(validated) == [{"step": 2, "policy_loss": 2.0, "val_score": 0.75}]
    assert b"".join(as_json(RunRows(tmp_path).rows(Wanted(), 3, None))) == b"[]"
    lines = "".join(as_csv(RunRows(tmp_path).records, [])).splitlines()
    assert lines == ["step,actor/pg_loss,val-core/a/acc/mean@1", "1,1.0,", "2,2.0,0.75", "3,nan,"]


def test_the_first_row_is_there_before_the_others_are_read(folder, monkeypatch):
    reads = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *where: reads.append(where) or pread(*where))
    parts = as_json(RunRows(folder).rows(Wanted("all"), None, None))
    first = next(parts)
    assert first.startswith(b'[{"step":0,') and len(reads) < 10
    whole = json.loads(first + b"".join(parts))
    assert len(whole) > 500 and len(reads) > 500
    reads.clear()
    list(RunRows(folder).rows(Wanted("all"), None, 1))
    assert len(reads) < 200


def test_a_file_that_grows_and_one_that_is_another_now(tmp_path):
    path = tmp_path / "metrics.jsonl"
    known = AllRows()
    assert known.of(tmp_path) is None
    path.write_text('{"step": 1, "data": {"mine": 1}}\n{"step": 2, "da')
    rows = known.of(tmp_path)
    assert list(rows.rows(Wanted(), None, None)) == [{"step": 1, "mine": 1.0}]
    with path.open("a") as file:
        file.write('ta": {"mine": 2}}\n')
    assert known.of(tmp_path) is rows
    assert [row["mine"] for row in rows.rows(Wanted(), None, None)] == [1.0, 2.0]
    path.write_text('{"step": 1, "data": {"mine": 5}}\n')
    assert [row["mine"] for row in rows.rows(Wanted(), None, None)] == [5.0]
