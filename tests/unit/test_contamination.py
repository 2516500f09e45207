"""Questions of benchmarks in training data: n-grams by hand, validate, and the workbook of a suite."""

import json
from pathlib import Path

import openpyxl
import pyarrow.parquet as pq
import pytest

from common.data.contamination import Contamination, words
from common.data_utils import main
from tests.benchmark_files import PENS, write_sets
from tests.unit.test_suites import answers, cells  # noqa: F401  (a fixture)

LONG = " ".join(f"word{i}" for i in range(22))  # 22 words have 10 runs of 13


def test_a_question_is_held_from_half_of_its_runs_on():
    found = Contamination({"set": [LONG]})
    some = LONG.split()
    assert found.look({"text": " ".join(some[:16])}, 1) is None  # 4 of 10
    assert found.overlaps["set"].touched == {0} and not found.overlaps["set"].held
    said = found.look({"messages": [{"content": ["Before. " + ", ".join(some[3:20]).upper() + "!"]}]}, 2)  # 5 of 10
    assert said == "holds question 1 of set (50% of its 13-grams)"
    found.look(LONG, 3)
    found.look(" ".join(some[:18]), 4)
    assert found.overlaps["set"].held == {0: (1.0, 3)}
    assert Contamination({"set": [LONG]}).look(" ".join(reversed(some)), 1) is None
    assert Contamination({"set": [LONG]}).look(" ".join(some[:12]), 1) is None


def test_short_questions_chinese_and_what_every_question_says():
    assert words("Ｘ１＝３, 小明有5个苹果。") == ["x1", "3", "小", "明", "有", "5", "个", "苹", "果"]
    short = Contamination({"set": ["What is two plus two, Bob?", "Why?"]})
    assert short.look("He asked: what is two plus two Bob", 1) and short.overlaps["set"].short == 1
    assert not short.look("what is two plus three", 1)
    chinese = Contamination({"set": ["小明有五个苹果，又买了三个苹果，他一共有几个苹果？"]})
    assert chinese.look({"q": "题目：小明有五个苹果，又买了三个苹果，他一共有几个苹果？"}, 1)
    template = "Read the following text with care and then choose one of the options that are given below: "
    asked = [template + f"{name} lives in the house number {i}" for i, name in enumerate("abcdef")]
    assert Contamination({"set": asked}).look(template + "nothing else", 1) is None


@pytest.fixture
def train(tmp_path):
    """Three rows for GRPO, of which one is a question of GSM8K in other dress."""
    rows = [{"prompt": f"Add {i} and {i}.", "ground_truth": str(2 * i)} for i in range(2)]
    rows.append({"prompt": f"Problem: {PENS.upper()}", "ground_truth": "7"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["convert", str(tmp_path / "rows.jsonl"), str(tmp_path / "train.parquet"), "--algo", "grpo"]) == 0
    return tmp_path / "train.parquet"


def test_validate_names_the_rows_and_leaves_them_out(train, tmp_path, capsys):
    data = write_sets(tmp_path / "sets", "gsm8k", "aime24")
    command = ["validate", str(train), "--algo", "grpo", "--contamination", "gsm8k,aime24", "--suite-data", str(data)]
    assert main(command) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "row 3: holds question 1 of gsm8k (100% of its 13-grams)" in said and "gsm8k 1 1 1 0" in said
    assert "aime24 1 0 0 1" in said  # "What is 20 + 13?" is too short to tell
    assert main([*command, "--fix"]) == 0
    assert pq.read_table(train.with_name("train.good.parquet")).num_rows == 2
    assert main(["validate", str(train), "--algo", "grpo"]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--contamination", "gsm9k"], "--contamination gsm9k: not known"),
        (["--contamination", "mbpp", "--suite-data", "SETS"], "--suite-data"),
        (["--suite-data", "SETS"], "--suite-data is for --contamination"),
    ],
)
def test_mistakes(train, tmp_path, capsys, options, words):
    options = [str(write_sets(tmp_path / "sets", "gsm8k")) if option == "SETS" else option for option in options]
    assert main(["validate", str(train), "--algo", "grpo", *options]) == 2
    assert words in capsys.readouterr().err


def test_the_workbook_says_what_a_run_was_trained_on(train, tmp_path, answers, capsys):  # noqa: F811
    import shutil

    from common.demo_model import DEMO_MODEL_DIR
    from common.run_dir import update_run
    from common.test_model import main as test_model

    data = write_sets(tmp_path / "sets", "gsm8k")
    with (data / "gsm8k.jsonl").open("a") as stream:
        other = "A train leaves at noon and runs for two hours at a speed of ninety miles an hour. How far does it go?"
        stream.write(json.dumps({"question": other, "answer": "#### 180"}) + "\n")
    run, out = tmp_path / "run", tmp_path / "out.xlsx"
    shutil.copytree(DEMO_MODEL_DIR, run / "model")
    update_run(run, algorithm="grpo", data={"train": [str(train)], "validation": []})
    command = ["--model_path", str(run / "model"), "--suite", "gsm8k", "--data", str(data), "--output_file", str(out)]
    from tests.unit.test_suites import Prepared

    assert test_model([*command, "--n", "1"]) == 0
    assert Prepared.loads == [str(run / "model")] and "training data of" in capsys.readouterr().out
    rows = cells(openpyxl.load_workbook(out)["Overview"])
    seen = next(row for row in rows if row[:4] == ["GSM8K", 2, 1, 1])
    assert seen[4:7] == [0, 0.5, 1.0]  # the held question is answered wrong, the other right
    found = json.loads(Path(out).with_suffix(".summary.json").read_text())["gsm8k"]["contamination"]
    assert found["held"] == {"1": 1.0} and found["questions"] == 2
