"""Conversion of questions and answers into verl's rows."""

import json

import pyarrow.parquet as pq
import pytest

from common.data_utils import json_to_parquet, main
from common.preflight.data import check_rl_row, check_sft_row, read_file

ROWS = [
    {"question": "1+1?", "answer": "It is 1+1=2.\n#### 2"},
    {"question": "苹果有几个?", "answer": "一共 1,200 个\n#### 1,200"},
]


@pytest.fixture(params=["json", "jsonl", "csv"])
def source(request, tmp_path):
    path = tmp_path / f"data.{request.param}"
    if request.param == "json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif request.param == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    else:
        path.write_text('question,answer\n"1+1?","It is 1+1=2.\n#### 2"\n"苹果有几个?","一共 1,200 个\n#### 1,200"\n')
    return path


def test_grpo_rows(source, tmp_path):
    target = tmp_path / "train.parquet"
    assert main(["convert", str(source), str(target), "--algo", "grpo", "--data-source", "mine"]) == 0
    rows = pq.read_table(target).to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["2", "1,200"]
    assert rows[1]["prompt"] == [{"role": "user", "content": "苹果有几个?"}]
    assert rows[0]["data_source"] == "mine" and rows[0]["extra_info"]["index"] == 0
    assert [check_rl_row(row) for row in read_file(target, (".parquet",)).sample] == [None, None]


def test_sft_rows_by_the_promised_function(source, tmp_path):
    target = tmp_path / "train.parquet"
    assert json_to_parquet(str(source), str(target)) == 2
    rows = pq.read_table(target).to_pylist()
    assert rows[0]["messages"] == [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "It is 1+1=2.\n#### 2"},
    ]
    assert [check_sft_row(row) for row in rows] == [None, None]


def test_skip_and_limit(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{"q": str(i), "a": str(i)} for i in range(10)]))
    assert json_to_parquet(str(path), str(tmp_path / "o.parquet"), question="q", answer="a", skip=7, limit=2) == 2
    assert [r["messages"][0]["content"] for r in pq.read_table(tmp_path / "o.parquet").to_pylist()] == ["7", "8"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"question": "a", "answer": "b"}\n{"question": ""', "line 2"),
        ('{"question": "a", "answer": "b"}\n{"question": "a", "answer": ""}', "row 2: column 'answer'"),
        ('{"problem": "a"}', "columns: problem"),
        ("", "no rows"),
    ],
)
def test_bad_input_names_the_place_and_leaves_nothing_behind(tmp_path, capsys, content, words):
    path, target = tmp_path / "d.jsonl", tmp_path / "out.parquet"
    path.write_text(content)
    target.write_text("what was there before")
    assert main(["convert", str(path), str(target)]) == 2
    assert words in capsys.readouterr().err
    assert target.read_text() == "what was there before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.jsonl", "out.parquet"]
