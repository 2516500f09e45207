"""Files become one parquet file: every row is accounted for, and nothing half-written is left."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from common.data import convert as convert_module
from common.data import table
from common.data.convert import BadRows, Options, Source, convert
from common.data.keys import question_of
from common.data.readers import records as readers
from common.data.readers.files import DataError
from common.data.rows import ALGORITHMS
from common.data_utils import json_to_parquet, main


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def questions(number, start=0):
    return [{"question": f"{i}+1?", "answer": f"It is\n#### {i + 1}"} for i in range(start, start + number)]


def read(path):
    return pq.read_table(path).to_pylist()


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(convert_module, "BATCH_ROWS", 4)
    monkeypatch.setattr(readers, "BATCH_ROWS", 4)


def test_the_promised_function(tmp_path):
    source = jsonl(tmp_path / "data.jsonl", questions(3))
    assert json_to_parquet(str(source), str(tmp_path / "data.parquet")) == 3
    user, assistant = {"role": "user", "content": "0+1?"}, {"role": "assistant", "content": "It is\n#### 1"}
    assert read(tmp_path / "data.parquet")[0] == {"messages": [user, assistant]}
    assert json_to_parquet(source, tmp_path / "rl.parquet", "grpo", data_source="mine", max_rows=2) == 2
    assert [row["data_source"] for row in read(tmp_path / "rl.parquet")] == ["mine", "mine"]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"question": "Q", "answer": "A"}, ["messages"]),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, ["prompt", "chosen", "rejected"]),
        (
            {"prompt": [{"role": "user", "content": "Q"}], "reward_model": {"style": "rule", "ground_truth": "A"}},
            ["data_source", "prompt", "ability", "reward_model", "extra_info"],
        ),
    ],
)
def test_what_the_rows_are_good_for_is_found_out(tmp_path, row, columns):
    convert([Source(jsonl(tmp_path / "d.jsonl", [row]))], tmp_path / "o.parquet")
    assert pq.read_schema(tmp_path / "o.parquet").names == columns


@pytest.mark.parametrize("algorithm", sorted({*ALGORITHMS} - {"text"}))  # of raw text there are no turns
def test_fields_that_turn_up_late(tmp_path, small_batches, algorithm):
    """Tool calls in the last row: one schema for all rows, and none of the first batches is lost."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": None, "y": [1, "二"]}}}
    user, tool = {"role": "user", "content": "Q"}, {"role": "tool", "content": "3", "name": "f"}
    long = [{**user, "content": "last"}, {"role": "assistant", "content": "", "tool_calls": [call]}, tool]
    rows = [{"prompt": f"Q{i}", "chosen": "A", "rejected": "B", "extra_info": {"i": i}} for i in range(9)]
    rows.append({"prompt": long, "chosen": "A", "rejected": "B", "extra_info": {"i": 1.5, "late": ["x"]}})
    options = Options(algorithm, self_play=algorithm == "gspo")
    report = convert([Source(jsonl(tmp_path / "d.jsonl", rows))], tmp_path / "o.parquet", options)
    assert (report.read, report.rows_written, report.rows_bad) == (10, 10, 0)
    made = read(tmp_path / "o.parquet")
    stored = made[-1]["messages" if algorithm == "sft" else "prompt"][1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(stored) == {"x": None, "y": [1, "二"]}
    if algorithm in ("grpo", "ppo", "gspo"):
        assert [row["extra_info"]["i"] for row in made] == [*range(9), 1.5] and made[-1]["extra_info"]["late"] == ["x"]


@pytest.mark.parametrize("late", [4, 5, 8])  # in the first batch, at the head of the second, in the last
def test_numbers_and_texts_in_one_field_become_texts(tmp_path, small_batches, late):
    for order in (1, -1):
        levels = [*range(late), *["hard"] * (9 - late)][::order]
        rows = [{"prompt": str(i), "extra_info": {"level": level}} for i, level in enumerate(levels)]
        convert([Source(jsonl(tmp_path / "d.jsonl", rows))], tmp_path / "o.parquet", Options("grpo"))
        assert [row["extra_info"]["level"] for row in read(tmp_path / "o.parquet")] == [str(level) for level in levels]


def test_nested_kinds_that_do_not_fit_in_one_column(tmp_path, small_batches):
    rows = [{"prompt": str(i), "extra_info": {"level": {"of": 1}}} for i in range(5)]
    rows[4]["extra_info"]["level"] = "easy"
    with pytest.raises(
        DataError, match=r"d.jsonl: around line 5: extra_info\.level: rows hold values of different kinds"
    ):
        convert([Source(jsonl(tmp_path / "d.jsonl", rows))], tmp_path / "o.parquet", Options("grpo"))


def test_bad_rows_stop_everything_by_default(tmp_path, capsys):
    source = jsonl(
        tmp_path / "d.jsonl", [*questions(2), {"question": "", "answer": "A"}, {"question": "Q", "answer": None}]
    )
    target = tmp_path / "o.parquet"
    target.write_text("what was there before")
    assert main(["convert", str(source), str(target), "--algo", "sft"]) == 1
    out = capsys.readouterr()
    assert "d.jsonl: line 3: question: is empty" in out.out and "line 4" in out.out
    assert "2 of 4 rows cannot be used" in out.err and "--skip-bad" in out.err
    assert target.read_text() == "what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.jsonl", "o.parquet"]


def test_skip_bad_keeps_both_sides(tmp_path):
    rows = [*questions(2), {"question": ""}, {"question": "half \ud83d of an emoji", "answer": "A"}]
    source = tmp_path / "d.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in rows) + "\n{broken\n")
    report = convert([Source(source)], tmp_path / "o.parquet", Options("sft", skip_bad=True))
    assert (report.read, report.rows_written, report.rows_bad) == (5, 2, 3)
    bad = [json.loads(line) for line in (tmp_path / "o.bad.jsonl").read_text().splitlines()]
    assert {row["place"]: row["problem"] for row in bad} == {
        3: "question: is empty",
        4: "messages: holds half of a surrogate pair (a broken emoji)",
        5: bad[1]["problem"],
    } and bad[1]["problem"].startswith("is not JSON")
    assert len(read(tmp_path / "o.parquet")) == 2


def test_a_file_that_ends_in_the_middle_leaves_nothing(tmp_path, small_batches):
    source = tmp_path / "d.json"
    source.write_text(json.dumps(questions(50))[:-30])
    with pytest.raises(DataError, match="is not JSON"):
        convert([Source(source)], tmp_path / "o.parquet", Options("sft", skip_bad=True))
    assert [path.name for path in tmp_path.iterdir()] == ["d.json"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(self, rows):
        self.path.write_text("half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(table.TableWriter, "write", full)
    source = jsonl(tmp_path / "d.jsonl", questions(3))
    assert main(["convert", str(source), str(tmp_path / "o.parquet")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]


def test_validation_rows_are_split_off_without_a_leak(tmp_path):
    rows = [row for row in questions(400) for _ in range(2)]  # every question twice
    source = jsonl(tmp_path / "d.jsonl", rows)
    for algorithm in ("sft", "grpo"):
        report = convert([Source(source)], tmp_path / "train.parquet", Options(algorithm, val_ratio=0.25, seed=1))
        train, validation = read(tmp_path / "train.parquet"), read(tmp_path / "val.parquet")
        assert report.written == {tmp_path / "train.parquet": len(train), tmp_path / "val.parquet": len(validation)}
        assert len(train) + len(validation) == 800 and 140 < len(validation) < 260
        asked = [{str(question_of(row)) for row in side} for side in (train, validation)]
        assert not asked[0] & asked[1]
    before = read(tmp_path / "val.parquet")
    convert([Source(source)], tmp_path / "train.parquet", Options("grpo", val_ratio=0.25, seed=1))
    assert read(tmp_path / "val.parquet") == before
    convert([Source(source)], tmp_path / "train.parquet", Options("grpo", val_ratio=0.25, seed=2))
    assert read(tmp_path / "val.parquet") != before


def test_duplicates_are_counted(tmp_path):
    source = jsonl(tmp_path / "d.jsonl", [*questions(5), *questions(3), {"question": "0+1?", "answer": "other"}])
    report = convert([Source(source)], tmp_path / "o.parquet", Options("sft", dedup=True))
    assert (report.read, report.rows_written, report.duplicates) == (9, 6, 3)
    report = convert([Source(source)], tmp_path / "o.parquet", Options("grpo", dedup=True))
    assert (report.read, report.rows_written, report.duplicates) == (9, 5, 4)


def test_the_same_rows_give_the_same_bytes(tmp_path):
    """Also in another process, where Python's hashes of texts are others."""
    source = jsonl(tmp_path / "d.jsonl", [{**row, "extra_info": {"b": 1, "a": 2}} for row in questions(20)])
    code = "import sys; from common.data_utils import main; sys.exit(main(sys.argv[1:]))"
    made = []
    for seed in ("1", "2", "3"):
        command = [sys.executable, "-c", code, "convert", str(source), str(tmp_path / "o.parquet"), "--algo", "gspo"]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([*command, "--val-ratio", "0.3", "--dedup"], env=environment, check=True, capture_output=True)
        made.append((tmp_path / "o.parquet").read_bytes() + (tmp_path / "o.val.parquet").read_bytes())
    assert made[0] == made[1] == made[2]


def test_several_inputs_each_with_its_columns(tmp_path):
    jsonl(tmp_path / "a.jsonl", [{"题目": "甲", "解": "1"}])
    (tmp_path / "b.csv").write_text("q,a\n乙,\\boxed{2}\n", encoding="utf-8")
    target = tmp_path / "o.parquet"
    command = ["convert", str(tmp_path / "a.jsonl"), str(tmp_path / "b.csv"), str(target), "--algo", "grpo"]
    assert main([*command, "--input", "题目", "--input", "q", "--output", "解", "--output", "a", "--system", "S"]) == 0
    by_options = read(target)
    assert [row["data_source"] for row in by_options] == ["a", "b"]
    assert [row["prompt"][1]["content"] for row in by_options] == ["甲", "乙"]
    assert [row["reward_model"]["ground_truth"] for row in by_options] == ["1", "2"]
    mapping = tmp_path / "sources.yaml"
    mapping.write_text(
        "- {path: a.jsonl, input: 题目, output: 解, system: S}\n- {path: b.csv, input: q, output: a, system: S}\n"
    )
    assert main(["convert", "--mapping", str(mapping), str(target), "--algo", "grpo"]) == 0
    assert read(target) == by_options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.jsonl", "o.parquet"], "missing.jsonl: no such file"),
        (["d.jsonl"], "give IN... and OUT"),
        (["d.jsonl", "o.jsonl"], "end its name with .parquet"),
        (["d.parquet", "d.parquet"], "is also an input"),
        (["d.jsonl", "o.parquet", "--val-ratio", "1.5"], "--val-ratio 1.5"),
        (["d.jsonl", "o.parquet", "--val-ratio", "0.0001"], "none of 3 rows fell to validation"),
        (["d.jsonl", "d.jsonl", "o.parquet", *["--input", "a"] * 3], "--input: given 3 times for 2 inputs"),
        (["d.jsonl", "o.parquet", "--max-rows", "0"], "no rows to write"),
        (["empty.jsonl", "o.parquet"], "no rows to write (0 read, 0 bad)"),
        (["--mapping", "bad.yaml", "o.parquet"], "entry 1: unknown colour"),
        (["--mapping", "list.yaml", "o.parquet"], "expected a list of entries"),
    ],
)
def test_commands_that_cannot_be_done(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "d.jsonl", questions(3))
    (tmp_path / "d.parquet").touch()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "bad.yaml").write_text("- {path: d.jsonl, colour: red}")
    (tmp_path / "list.yaml").write_text("path: d.jsonl")
    assert main(["convert", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "o.parquet").exists()


def test_what_is_not_used_is_said(tmp_path):
    rows = [
        {"question": "Q", "answer": "A", "level": 3},
        {"messages": [{"role": "user", "content": "Q", "colour": 1}, {"role": "assistant", "content": "A"}]},
    ]
    report = convert([Source(jsonl(tmp_path / "d.jsonl", rows))], tmp_path / "o.parquet")
    assert report.notes == {"column level is not used": 1, "key colour of messages is not used": 1}
    report = convert([Source(jsonl(tmp_path / "p.jsonl", [{"prompt": "Q"}]))], tmp_path / "o.parquet", Options("ppo"))
    assert list(report.notes.values()) == [1] and "no ground truth" in list(report.notes)[0]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (["user", "user", "assistant"], "message 2, after user, is user; expected assistant"),
        (["assistant", "user", "assistant"], "begins with assistant; expected user or system"),
        (["user", "assistant", "system", "user", "assistant"], "message 3 is a system prompt"),
        (["user", "tool", "assistant"], "message 2, after user, is tool"),
        (["user", "assistant", "user"], "ends with user"),
    ],
)
def test_roles_out_of_order(tmp_path, messages, words):
    rows = [{"messages": [{"role": role, "content": "x"} for role in messages]}]
    with pytest.raises(BadRows) as caught:
        convert([Source(jsonl(tmp_path / "d.jsonl", rows))], tmp_path / "o.parquet", Options("sft"))
    assert words in str(caught.value)


def test_memory_stays_flat(tmp_path):
    """Four times the rows need about the same memory (peak of the process, from the kernel)."""
    code = (
        "import resource, sys; from common.data_utils import json_to_parquet; "
        "json_to_parquet(sys.argv[1], sys.argv[2]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for rows in (20_000, 80_000):
        source = jsonl(tmp_path / "d.jsonl", ({"question": f"{i} " * 40, "answer": f"{i}"} for i in range(rows)))
        command = [sys.executable, "-c", code, str(source), str(tmp_path / "o.parquet")]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] < 1.25 * peaks[0]
