"""A file has one type a column: several accepted answers make every ground truth a list, weights are stored."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data.readers.files import DataError
from common.data.table import Shape, TableWriter, storable


def scored(truth):
    return {"prompt": [{"role": "user", "content": "Q"}], "reward_model": {"style": "rule", "ground_truth": truth}}


def written(path, shape, rows):
    writer = TableWriter(path, shape.schema())
    writer.write(rows)
    writer.close()
    return pq.read_table(path)


@pytest.mark.parametrize(
    ("truths", "stored"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", ["b"], None], ["a", "b", None]),
        (["Ann", ["b", "c"], "", None, []], [["Ann"], ["b", "c"], [], [], []]),
        ([["a", "b"], ["c"]], [["a", "b"], ["c"]]),
    ],
)
def test_ground_truths_have_one_type(tmp_path, truths, stored):
    shape, rows = Shape(), [scored(truth) for truth in truths]
    assert shape.grow(rows)
    table = written(tmp_path / "o.parquet", shape, rows)
    assert [row["reward_model"]["ground_truth"] for row in table.to_pylist()] == stored
    kind = table.schema.field("reward_model").type.field("ground_truth").type
    assert kind == (pa.list_(pa.string()) if isinstance(stored[0], list) else pa.string())
    assert [row["reward_model"]["ground_truth"] for row in rows] == truths  # the rows themselves stay as they were


def test_several_answers_that_turn_up_late_ask_for_a_second_reading():
    shape = Shape()
    assert shape.grow([scored("a")]) and not shape.grow([scored("b"), scored(["c"])])
    assert shape.grow([scored(["a", "b"])]) and not shape.grow([scored(["a", "b"]), scored("c")])


def test_a_truth_that_is_no_text_is_refused(tmp_path):
    shape = Shape()
    shape.grow([scored(["a", "b"])])
    assert storable(scored(["a", 1]), shape.schema()).startswith("reward_model: ")
    assert storable(scored("a"), shape.schema()) is None
    with pytest.raises(DataError):
        written(tmp_path / "o.parquet", shape, [scored([{"a": 1}])])


def test_weights_are_stored_where_there_are(tmp_path):
    shape = Shape()
    user = {"role": "user", "content": "Q"}
    rows = [
        {"messages": [user, {"role": "assistant", "content": "A"}]},
        {"messages": [user, {"role": "assistant", "content": "B", "weight": 0}]},
        {"messages": [user, {"role": "assistant", "content": "C", "weight": 1.0}]},
    ]
    shape.grow(rows[:1])
    assert "weight" not in str(shape.schema())
    assert shape.grow(rows)
    table = written(tmp_path / "o.parquet", shape, rows)
    assert [row["messages"][1]["weight"] for row in table.to_pylist()] == [None, 0, 1]
