"""TRAIN_DATA of the user's in any form: converted and divided before the start, with no VAL_DATA given."""

import csv
import json

import openpyxl
import pyarrow.parquet as pq
import pytest

from common.preflight.data_split import choose, split_files, validation_rows
from tests.unit.test_preflight import only_error, rl_rows, write

SUMS = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(40)]
PAIRS = [{"prompt": f"What is {n} + 1?", "chosen": str(n + 1), "rejected": str(n + 2)} for n in range(40)]
ALGORITHMS = ("sft", "dpo", "grpo", "ppo", "gspo")


def save(path, rows):
    """Write rows in the form that the name's suffix says."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        book = openpyxl.Workbook()
        for row in [list(rows[0]), *(list(row.values()) for row in rows)]:
            book.active.append(row)
        book.save(path)
    return path


def questions(path):
    """What the user asks in each row."""
    rows = pq.read_table(path).to_pylist()
    return [row.get("messages", row.get("prompt"))[0]["content"] for row in rows]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".xlsx"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_file_of_any_kind_is_converted_and_divided(check, tmp_path, algorithm, suffix):
    path = save(tmp_path / f"我的 data{suffix}", PAIRS if algorithm == "dpo" else SUMS)
    knobs = check(algorithm, TRAIN_DATA=path.name, EXPERIMENT_NAME="mine")
    assert knobs.errors == []
    ours = tmp_path / "outputs" / "mine" / "data"
    assert (knobs["TRAIN_DATA"], knobs["VAL_DATA"]) == (f"{ours}/train.parquet", f"{ours}/val.parquet")
    folder = knobs.data.folder
    train, validation = questions(folder / "train.parquet"), questions(folder / "val.parquet")
    assert len(validation) == 8 and len(train) == 32  # 8 at least, and a fifth at most
    assert sorted(train + validation) == sorted(row["question"] for row in SUMS)
    said = [text for text in knobs.warnings if text.startswith(f"TRAIN_DATA={path}:") and "converted into" in text]
    assert len(said) == 1 and "40 rows" in said[0]
    assert knobs.reasons["VAL_DATA"] == "8 of the 40 rows of TRAIN_DATA, chosen by hash and left out of training"
    assert not ours.exists()  # a check leaves nothing in the run directory


def test_the_sample_is_validated_on_its_own_file(check):
    knobs = check("sft")
    assert knobs["TRAIN_DATA"].endswith("/sft/data/train.parquet")
    assert knobs["VAL_DATA"].endswith("/sft/data/val.parquet") and knobs.reasons["VAL_DATA"] == "the sample's own"


@pytest.mark.parametrize(("rows", "expected"), [(1, 1), (2, 1), (9, 1), (10, 2), (40, 8), (128, 8), (1600, 100)])
def test_how_many_rows_are_validated_on(rows, expected):
    assert validation_rows(rows) == expected


def test_no_more_than_500_rows_are_validated_on():
    assert validation_rows(1_000_000) == 500


def test_rows_of_one_prompt_stay_together():
    assert choose({1: 3, 2: 1, 3: 1}, target=2, rows=5) == {2, 3}
    assert choose({7: 4}, target=1, rows=4) == set()


def test_two_rows_are_divided_and_always_alike(tmp_path):
    path = write(tmp_path / "two.parquet", rl_rows(2))
    sides = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train, validation, rows, kept = split_files([path], tmp_path / name, "grpo")
        assert (rows, kept) == (1, 1)
        sides.append((questions(train[0]), questions(validation[0])))
    assert sides[0] == sides[1] and sides[0][0] != sides[0][1]


def test_one_row_cannot_be_divided(check, tmp_path):
    error = only_error(check("sft", TRAIN_DATA=str(save(tmp_path / "one.jsonl", SUMS[:1]))))
    assert "1 different prompt in 1 rows" in error and "set VAL_DATA" in error


@pytest.mark.parametrize(
    ("algorithm", "rows", "words"), [("dpo", SUMS, ("chosen", "--algo dpo")), ("sft", [{"a": 1, "b": 2}], ("a, b",))]
)
def test_rows_of_another_form_are_refused_with_what_to_do(check, tmp_path, algorithm, rows, words):
    path = save(tmp_path / "mine.jsonl", rows)
    error = only_error(check(algorithm, TRAIN_DATA=str(path)))
    assert error.startswith(f"TRAIN_DATA={path}: line 1:") and all(word in error for word in words)


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv", "empty.parquet", "folder"])
def test_what_holds_no_rows_is_named(check, tmp_path, name):
    path = tmp_path / name
    path.touch() if path.suffix else path.mkdir()
    assert only_error(check("sft", TRAIN_DATA=str(path))).startswith(f"TRAIN_DATA={path}: ")


def test_a_logger_list_without_file_is_refused(check):
    error = only_error(check("sft", arguments=["trainer.logger=[console]"]))
    assert "trainer.logger" in error and "[console,file]" in error
