"""The multiple choice reward: which sentences name a letter."""

import time

import pytest

from common.reward_functions import multiple_choice
from common.rewards.choice import stated_letter

STATEMENTS = [
    ("The answer is (B).", "B"),
    ("the answer is B", "B"),
    ("Answer: B", "B"),
    ("**Answer:** C", "C"),
    ("Answer: **B**", "B"),
    ("Answer: B) Paris", "B"),
    ("The correct answer is option B", "B"),
    ("The best option is: A) 3", "A"),
    ("Option C is correct", "C"),
    ("I pick option J.", "J"),
    ("Final Answer: $\\boxed{A}$", "A"),
    (r"\boxed{\text{(E)}}", "E"),
    (r"The answer is: $\boxed{\textbf{(C)}}$", "C"),
    (r"\boxed{b}", "B"),
    ("#### B", "B"),
    ("B", "B"),
    ("(C)", "C"),
    ("**D**", "D"),
    ("The others are wrong.\nB.", "B"),
    ("The answer is A because the rest is wrong", "A"),
    ("The answer is (A), I think. No: the answer is C", "C"),  # the last clear statement
    ("The answer is C. Note that A is close.", "C"),
    ("答案是B", "B"),
    ("答案：Ｂ", "B"),
    ("正确答案为（D）", "D"),
    ("答案应该是：选项 B", "B"),
    ("故选 C。", "C"),
    ("答案不是B，答案是C", "C"),
    ("不选B", None),
    ("The answer is not B", None),
    ("I would not choose B", None),
    ("The answer is A or B", None),
    ("答案是A和B", None),
    (r"\boxed{AB}", None),
    ("The answer is A good idea", None),
    ("the answer is a matter of taste", None),
    ("The answer is Apple", None),
    ("The answer is K", None),
    ("ABC", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "letter"), STATEMENTS)
def test_stated_letter(text, letter):
    assert stated_letter(text) == letter


@pytest.mark.parametrize("truth", ["B", "b", "(B)", "B.", "B) Paris", "B、巴黎", "Ｂ"])
def test_forms_of_the_truth(truth):
    assert multiple_choice("cais/mmlu", "The answer is (B).", truth) == {"score": 1.0, "acc": 1.0, "format": 1.0}
    assert multiple_choice("cais/mmlu", "The answer is (C).", truth) == {"score": 0.0, "acc": 0.0, "format": 1.0}


@pytest.mark.parametrize("truth", [None, "", "K", "Paris", 1, ["B"], "AB"])
def test_unusable_truth_is_named(truth):
    with pytest.raises(ValueError, match="ground_truth="):
        multiple_choice("cais/mmlu", "The answer is (B).", truth)


@pytest.mark.parametrize(
    "odd",
    [None, 3, b"B", "\ud800", "answer is" + " " * 100_000 + "x", "\n(" * 50_000, "####" + " " * 100_000 + "x"]
    + ["\\boxed{" * 15_000, "(" * 100_000, "answer is:" * 10_000, "A or " * 20_000, "A" + ")" * 100_000],
)
def test_odd_answers_score_zero_soon(odd):
    started = time.perf_counter()
    assert multiple_choice("cais/mmlu", odd, "B")["score"] == 0.0
    assert time.perf_counter() - started < 1.0
