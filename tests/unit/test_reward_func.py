"""The GRPO example: it is the GSM8K reward, and what verl gets back."""

import pytest

from common.reward_functions import gsm8k
from grpo.reward_func import compute_score

RIGHT = {"score": 1.0, "acc": 1.0, "format": 1.0}
WRONG_NUMBER = {"score": 0.0, "acc": 0.0, "format": 1.0}
NO_ANSWER = {"score": 0.0, "acc": 0.0, "format": 0.0}


def score(solution, truth):
    return compute_score(data_source="demo/sums", solution_str=solution, ground_truth=truth, extra_info={"index": 0})


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
        ("She makes $18.\n#### $18.00", "9 * 2 = $<<9*2=18>>18 every day.\n#### 18", RIGHT),
    ],
)
def test_compute_score(solution, truth, expected):
    assert score(solution, truth) == expected


FORMS = [
    "18",
    "18 or 20",
    "1/2",
    "40%",
    "**18**",
    "(18)",
    r"\boxed{18}",
    "$18",
    "18.0",
    "18 dollars",
    "18, 20",
    "1,800",
]
FORMS += ["1,800", "-18", "eighteen", "x = 18", "18/0", "３万", "<answer>18</answer>"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("truth", ["18", "0.5", "0.4", "1800", "30000"])
def test_there_is_one_scorer_of_gsm8k(form, truth):
    for answer in (f"#### {form}", form, f"<think>#### {form}"):
        assert score(answer, truth) == gsm8k("openai/gsm8k", answer, truth)


def test_a_truth_that_is_no_number_is_named():
    with pytest.raises(ValueError, match="ground_truth='blue'"):
        score("#### blue", "blue")


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
