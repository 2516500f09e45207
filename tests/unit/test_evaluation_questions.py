"""Questions from files of any form, and the reward that is chosen for them."""

import json

import pytest

from common.data.names import Columns
from common.evaluation.questions import read_questions
from common.evaluation.rewards import choose
from common.evaluation.settings import EvaluationError
from tests.conftest import ROOT


def questions(tmp_path, rows, name="rows.jsonl", **columns):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return read_questions(path, Columns(**columns))


def labels(tmp_path, rows, reward="auto"):
    found = questions(tmp_path, rows)
    return [spec and spec.label for spec in choose(found, reward, {}, None, tmp_path / "rows.jsonl").specs]


def test_the_rows_of_the_issue(tmp_path):
    rows = [
        {"prompt": "问题1", "ground_truth": "参考答案1", "id": "q1", "level": 3},
        {"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}], "data_source": "x"},
    ]
    first, second = questions(tmp_path, rows)
    assert (first.prompt, first.ground_truth, first.id, first.columns) == ("问题1", "参考答案1", "q1", {"level": 3})
    assert (second.prompt, second.id, second.ground_truth) == ("system: S\n\nuser: U", 2, None)


def test_verls_own_validation_file():
    first = read_questions(ROOT / "grpo" / "data" / "val.parquet", Columns())[0]
    assert (first.prompt, first.ground_truth) == ("What is 28 + 34?", "62")
    assert (first.data_source, first.ability, first.extra_info["index"]) == ("demo/sums", "math", 0)


@pytest.mark.parametrize("folder", ["sft", "dpo"])
def test_rows_with_a_worked_answer_have_its_end_as_truth(folder):
    for question in read_questions(ROOT / folder / "data" / "val.parquet", Columns()):
        assert question.ground_truth == question.reference.rsplit("####", 1)[1].strip()
        assert question.messages[-1]["role"] == "user"


def test_a_long_reference_without_a_mark_is_no_truth(tmp_path):
    rows = [{"prompt": "p", "response": "a long story " * 9}, {"prompt": "p", "response": "Paris"}]
    assert [question.ground_truth for question in questions(tmp_path, rows)] == [None, "Paris"]


def test_columns_by_name(tmp_path):
    [question] = questions(tmp_path, [{"frage": "1+1?", "lösung": "2"}], input="frage", output="lösung")
    assert (question.prompt, question.ground_truth, question.columns) == ("1+1?", "2", {})


def test_broken_rows_stay_with_their_problem(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": \n{"prompt": "  "}\n{"text": 1}\n')
    found = read_questions(path, Columns())
    assert [question.problem is None for question in found] == [True, False, False, False]
    assert "not JSON" in found[1].problem and "empty" in found[2].problem
    assert "--map prompt=text" in found[3].problem


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("\n", "has no rows"), ('{"a": 1}\n', "none of its 1 rows can be used"), (None, "no such file")],
)
def test_files_without_a_question(tmp_path, text, message):
    path = tmp_path / "rows.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        read_questions(path, Columns())


def test_auto_reads_the_form_of_the_truth(tmp_path):
    rows = [
        {"prompt": "p", "ground_truth": 42},
        {"prompt": "p", "ground_truth": r"\frac{1}{2}"},
        {"prompt": "p", "ground_truth": "C"},
        {"prompt": "p", "ground_truth": "the Eiffel tower"},
        {"prompt": "p", "response": "6 * 7 = 42\n#### 42"},
        {"prompt": "p", "ground_truth": "B", "data_source": "cais/mmlu"},
        {"prompt": "p", "ground_truth": "7", "data_source": "openai/gsm8k"},
        {"prompt": "p", "ground_truth": "7", "data_source": "unheard/of"},
        {"prompt": "p"},
    ]
    wanted = ["math", "math", "multiple_choice", "normalized_match", "gsm8k", "multiple_choice", "gsm8k", "math", None]
    assert labels(tmp_path, rows) == wanted


FORMULAS = "1/2|-3/4|(1, 2)|[0, 5)|1, 2, 3|{1,2}|x/2|2x+1|x = 5|40%|1e-5|sqrt(2)|3 + 4i".split("|")
TEXTS = "3:45|1914-1918|2020-01-05|1/2/2020|1.2.3|C++|A+|U2|F-16|H2O|5 km|12 34|3 Idiots".split("|")


def test_auto_takes_what_can_be_calculated_for_mathematics(tmp_path):
    assert set(labels(tmp_path, [{"prompt": "p", "ground_truth": truth} for truth in FORMULAS])) == {"math"}
    assert set(labels(tmp_path, [{"prompt": "p", "ground_truth": truth} for truth in TEXTS])) == {"normalized_match"}


def test_auto_reads_several_accepted_answers_and_letters(tmp_path):
    options = "Which?\nA. x\nB. y\nC. z"
    rows = [
        {"prompt": "p", "ground_truth": ["Paris", "City of Paris"]},
        {"prompt": "p", "ground_truth": ["1/2", "0.5"]},
        {"prompt": options, "ground_truth": "AC"},
        {"prompt": "p", "ground_truth": "AC"},  # alternating current
        {"prompt": options, "ground_truth": ["A", "C"]},
        {"prompt": "p", "ground_truth": "assert f(1) == 2"},
        {"prompt": "p", "ground_truth": {"inputs": ["2\n"], "outputs": ["4\n"]}},
    ]
    wanted = ["normalized_match", "math", "multiple_choice", "normalized_match", "multiple_choice", "code", "code"]
    assert labels(tmp_path, rows) == wanted


def test_a_reward_by_name(tmp_path):
    rows = [{"prompt": "p", "ground_truth": "1"}, {"prompt": "p"}]
    assert labels(tmp_path, rows, "exact") == ["exact_match", None]
    assert labels(tmp_path, rows, "repetition") == ["repetition", "repetition"]
    assert labels(tmp_path, rows, "none") == [None, None]


def test_a_score_without_any_ground_truth_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="no row has a ground truth"):
        labels(tmp_path, [{"prompt": "p"}], "gsm8k")


@pytest.mark.parametrize("reward", ["gsm9k", "nowhere.py", "nowhere.py:f"])
def test_a_reward_that_is_not_there(tmp_path, reward):
    with pytest.raises(EvaluationError, match=reward):
        labels(tmp_path, [{"prompt": "p", "ground_truth": "1"}], reward)
