"""Tailing files and keeping a run's numbers."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

from common import tail as tail_module
from common.metrics.names import friendly
from common.run_dir import read_metrics
from common.tail import Tail
from monitor.columns import Columns
from monitor.metrics_collector import RunMetrics


def line(step, **data):
    return json.dumps({"step": step, "data": data}) + "\n"


def append(path, text):
    with open(path, "ab") as stream:
        stream.write(text if isinstance(text, bytes) else text.encode())


def values(metrics, name):
    assert metrics.poll(10)
    steps, numbers = metrics.columns.series(name)
    return dict(zip(steps.tolist(), numbers.tolist(), strict=True))


def test_a_half_written_line_is_waited_for(tmp_path):
    tail = Tail(tmp_path / "x")
    assert tail.read() == b"" and "No such file" in tail.error
    append(tail.path, b"one\ntw")
    assert tail.read() == b"one\n" and tail.error == ""
    assert tail.read() == b""
    append(tail.path, b"o\n")
    assert tail.read() == b"two\n"


def test_each_byte_is_read_once(tmp_path, monkeypatch):
    path, counted = tmp_path / "x", []
    real = tail_module.open_regular

    def counting(*arguments, **options):
        stream = real(*arguments, **options)

        class Stream:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                stream.close()

            def read(self, limit):
                data = stream.read(limit)
                counted.append(len(data))
                return data

            seek, fileno = stream.seek, stream.fileno

        return Stream()

    monkeypatch.setattr(tail_module, "open_regular", counting)
    tail, found = Tail(path), b""
    for number in range(50):
        append(path, b"line %d\n" % number)
        found += tail.read()
        assert tail.read() == b""
    assert found == path.read_bytes()
    assert sum(counted) == len(found)


@pytest.mark.parametrize("change", ["truncated", "replaced", "rewritten longer"])
def test_a_truncated_or_replaced_file_is_noticed(tmp_path, change):
    path = tmp_path / "metrics.jsonl"
    append(path, "".join(line(step, loss=1.0) for step in range(1, 6)))
    metrics = RunMetrics(tmp_path)
    assert len(values(metrics, "loss")) == 5
    if change == "truncated":
        path.write_text(line(1, loss=9.0))
        expected = {1: 9.0}
    elif change == "replaced":
        other = tmp_path / "other"
        other.write_text("".join(line(step, loss=2.0) for step in range(1, 9)))
        os.replace(other, path)
        expected = dict.fromkeys(range(1, 9), 2.0)
    else:
        path.write_text("".join(line(step, loss=3.0) for step in range(1, 20)))
        expected = dict.fromkeys(range(1, 20), 3.0)
    assert values(metrics, "loss") == expected


def test_a_line_without_an_end_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(tail_module, "MAX_LINE", 1000)
    path = tmp_path / "x.log"
    append(path, b"\x00" * 5000)
    metrics = RunMetrics(path)
    metrics.poll()
    append(path, b"\n" + line(3, loss=1.0).encode())
    assert values(metrics, "loss") == {3: 1.0}


def test_attempts_are_joined_as_the_kit_joins_them(tmp_path):
    append(tmp_path / "metrics.jsonl", line(0, **{"val/loss": 5.0}))
    append(tmp_path / "metrics.jsonl", "".join(line(s, **{"train/loss": 1.0 * s}) for s in range(1, 7)))
    append(tmp_path / "metrics.2.jsonl", "".join(line(s, **{"train/loss": 10.0 * s}) for s in range(4, 6)))
    append(tmp_path / "metrics.2.jsonl", line(5, **{"val/loss": 0.5}))
    metrics = RunMetrics(tmp_path)
    joined = read_metrics(tmp_path)
    for name in ("train/loss", "val/loss"):
        assert values(metrics, name) == {r["step"]: r["data"][name] for r in joined if name in r["data"]}
    assert metrics.columns.resumed_at() == [4]


def test_the_kits_names_are_those_of_the_table():
    rng = np.random.default_rng(1)
    records = []
    for step in range(30):
        data = {"critic/score/mean": rng.random(), "critic/score/max": 1.0, "critic/score/min": 0.0}
        data["actor/kl_loss" if step % 2 else "actor/reward_kl_penalty"] = rng.random()
        if step % 5 == 0:
            data |= {"val-core/a/acc/mean@1": rng.random(), "val-core/b/acc/mean@8": rng.random()}
        records.append((step, data))
    columns = Columns()
    columns.add(records)
    for name in columns.table_names():
        steps, numbers = columns.series(name)
        want = {step: row[name] for step, data in records if name in (row := friendly(data))}
        assert steps.tolist() == list(want)
        assert numbers == pytest.approx(list(want.values()), rel=1e-12)
    assert "reward_std_bound" in columns.table_names()


def test_values_that_are_no_numbers(tmp_path):
    append(
        tmp_path / "metrics.jsonl", '{"step":1,"data":{"a":null,"b":"text","c":[1],"d":true,"e":1' + "0" * 400 + "}}\n"
    )
    append(tmp_path / "metrics.jsonl", line(2, a=2.0))
    metrics = RunMetrics(tmp_path)
    found = values(metrics, "a")
    assert math.isnan(found[1]) and found[2] == 2.0
    assert values(metrics, "b") == {} and values(metrics, "d") == {1: 1.0} and metrics.columns.names() == ["a", "d"]


def test_a_run_without_its_metrics_file_is_read_from_its_console(tmp_path):
    append(tmp_path / "train.log", "# attempt 1, now: python\nstep:1 - train/loss:3.0\nstep:2 - train/loss:2.0\n")
    append(tmp_path / "train.log", "# attempt 2, now: python\nstep:2 - train/loss:1.5\n")
    metrics = RunMetrics(tmp_path)
    assert values(metrics, "loss") == {1: 3.0, 2: 1.5}
    append(tmp_path / "metrics.jsonl", line(1, **{"train/loss": 7.0}))
    assert values(metrics, "loss") == {1: 7.0}  # the better source has come


def test_tensorboard_files(tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path))

    def write(step, value):
        summary = Summary(value=[Summary.Value(tag="train/loss", simple_value=value)])
        writer.add_event(Event(wall_time=1.0 + step, step=step, summary=summary))
        writer.flush()

    write(1, 0.5)
    metrics = RunMetrics(tmp_path)
    assert values(metrics, "loss") == {1: 0.5}
    write(2, 0.25)
    assert values(metrics, "loss") == {1: 0.5, 2: 0.25}
    writer.close()
    append(next(tmp_path.glob("*tfevents*")), b"\x05\x00broken")
    assert values(metrics, "loss") == {1: 0.5, 2: 0.25}


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    append(tmp_path / "train.log", "step:1 - a:1\n")
    metrics = RunMetrics(tmp_path)
    assert metrics.poll()
    assert metrics.errors == ["metrics.jsonl: Is a directory"] or "plain file" in metrics.errors[0]
