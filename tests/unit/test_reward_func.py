"""The GRPO reward: what counts as an answer, when two numbers are the same, and what verl gets back."""

import pytest

from grpo.reward_func import compute_score, extract_answer, is_correct

RIGHT = {"score": 1.0, "acc": 1.0, "format": 1.0}
WRONG_NUMBER = {"score": 0.0, "acc": 0.0, "format": 1.0}
NO_ANSWER = {"score": 0.0, "acc": 0.0, "format": 0.0}


def score(solution, truth):
    return compute_score(data_source="demo/sums", solution_str=solution, ground_truth=truth, extra_info={"index": 0})


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("7 + 8 = 15\n#### 15", "15"),
        ("#### 3\nno, wait\n#### 15", "15"),  # the last one counts
        ("#### 1,234 apples\nDone.", "1,234"),
        ("####15", "15"),
        ("The answer is 15.", None),
        ("####", None),
        ("####\n15", None),  # the number has to stand on the same line
        ("", None),
        (None, None),
        (15, None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("18", "18"),
        ("18.0", "18"),
        ("18", "18.00"),
        ("1,234", "1234"),
        ("$5", "5"),
        ("$1,234.50", "1234.5"),
        ("-$5", "-5"),
        ("15.", "15"),
        ("+7", "7"),
        ("-3", "-3"),
        (".5", "0.5"),
        ("40%", "40"),
        ("15。", "15"),
        ("007", "7"),
        ("15", 15),
        ("2.5", 2.5),
        ("blue", "blue"),
        ("9007199254740993", "9007199254740993"),  # 2**53 + 1, which a float cannot hold
    ],
)
def test_same_answers(answer, truth):
    assert is_correct(answer, truth)


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("15", "16"),
        ("-15", "15"),
        ("1.5", "15"),
        ("12,34", "1234"),  # not a thousands comma
        ("15 apples", "15"),
        ("7 8", "78"),
        ("1$5", "15"),
        ("9007199254740993", "9007199254740992"),
        ("", ""),
        (".", "0"),
        ("nan", "1"),
        ("1e3", "1000"),
        (None, "15"),
        ("15", None),
        (None, None),
        ("blue", "red"),
    ],
)
def test_different_answers(answer, truth):
    assert not is_correct(answer, truth)


@pytest.mark.parametrize(
    ("solution", "truth", "expected"),
    [
        ("7 + 8 = 15\n#### 15", "15", RIGHT),
        ("7 + 8 = 16\n#### 16", "15", WRONG_NUMBER),
        ("The answer is 15.", "15", NO_ANSWER),  # the right number in the wrong form earns nothing
        ("#### fifteen", "15", NO_ANSWER),
        ("#### 15\n#### 16", "15", WRONG_NUMBER),
        ("#### 16\n#### 15", "15", RIGHT),
        ("#### 15 apples", "15", RIGHT),
        ("", "15", NO_ANSWER),
        (None, "15", NO_ANSWER),
        ("#### 15", None, WRONG_NUMBER),
    ],
)
def test_compute_score(solution, truth, expected):
    assert score(solution, truth) == expected


def test_gsm8k_solution_as_ground_truth():
    """GSM8K's `answer` column is a whole solution; its calculator marks must not confuse the comparison."""
    solution = "She makes 9 * 2 = $<<9*2=18>>18 every day at the farmer's market.\n#### 18"
    assert score("9 eggs at $2 each make $18.\n#### $18.00", solution) == RIGHT
    assert score("#### 19", solution) == WRONG_NUMBER


@pytest.mark.parametrize("odd", [None, "", "####", "#### ", "#### $", "#### ,", "#### -", 3.5, b"#### 15", ["#### 15"]])
def test_odd_answers_score_zero_without_raising(odd):
    assert score(odd, "15") == NO_ANSWER


def test_what_verl_requires_of_the_dict():
    """Same keys on every sample, all numeric, and no key named `reward` (verl adds that one itself)."""
    for solution in ("#### 15", "#### 1", "no", None):
        result = compute_score(
            data_source="x", solution_str=solution, ground_truth="15", extra_info=None, reward_router_address=None
        )
        assert set(result) == {"score", "acc", "format"}
        assert all(type(value) is float for value in result.values())
