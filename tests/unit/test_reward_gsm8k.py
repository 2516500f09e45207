"""The GSM8K reward: which texts hold which number, on hard cases with the result worked out by hand."""

import random
import time

import pytest

from common.reward_functions import gsm8k

RIGHT = {"score": 1.0, "acc": 1.0, "format": 1.0}
WRONG = {"score": 0.0, "acc": 0.0, "format": 1.0}
NO_ANSWER = {"score": 0.0, "acc": 0.0, "format": 0.0}


def score(answer, truth, **parameters):
    return gsm8k(data_source="openai/gsm8k", solution_str=answer, ground_truth=truth, extra_info={}, **parameters)


HARD_CASES = [
    # (answer, truth, result)                     the same number
    ("#### 18", "18", RIGHT),
    ("#### 18.0", "18", RIGHT),
    ("#### 18", "18.00", RIGHT),
    ("#### $18", "18", RIGHT),
    ("#### 1,800", "1800", RIGHT),
    ("#### 1800", "1,800", RIGHT),
    ("#### $1,800.50", "1800.5", RIGHT),
    ("#### -3", "-3", RIGHT),
    ("#### \u22123", "-3", RIGHT),  # the typographer's minus
    ("#### -$5", "-5", RIGHT),
    ("#### $-5", "-5", RIGHT),
    ("#### 1/2", "0.5", RIGHT),
    ("#### 1 1/2", "1.5", RIGHT),
    ("#### ½", "0.5", RIGHT),
    ("#### 1½ cups", "1.5", RIGHT),
    (r"#### \frac{3}{4}", "0.75", RIGHT),
    ("#### 40%", "40", RIGHT),
    ("#### 40%", "0.4", RIGHT),
    ("#### 40 percent", "40%", RIGHT),
    ("#### 18 dollars", "18", RIGHT),
    ("#### 5 km", "5", RIGHT),
    ("#### 5km^2", "5", RIGHT),
    ("#### １８", "18", RIGHT),
    ("#### １，８００。", "1800", RIGHT),
    ("#### 18。", "18", RIGHT),
    ("#### 18.", "18", RIGHT),
    ("#### **18**", "18", RIGHT),
    (r"#### $\boxed{18}$", "18", RIGHT),
    ("####18", "18", RIGHT),
    ("####\t18\nThat is all.", "18", RIGHT),
    ("#### 3\nno, wait\n#### 18", "18", RIGHT),  # the last one counts
    ("#### 9007199254740993", "9007199254740993", RIGHT),  # 2**53 + 1, which a float cannot hold
    ("#### .5", "0.50", RIGHT),
    ("#### 007", "7", RIGHT),
    ("#### 18", 18, RIGHT),
    ("#### 2.5", 2.5, RIGHT),
    ("#### 72", "48 + 24 = <<48+24=72>>72 clips.\n#### 72", RIGHT),  # a whole solution as the truth
    # another number
    ("#### 19", "18", WRONG),
    ("#### -18", "18", WRONG),
    ("#### 1.8", "18", WRONG),
    ("#### 180", "18", WRONG),
    ("#### 18\n#### 19", "18", WRONG),
    ("#### 40", "0.4", WRONG),  # without the sign, 40 is 40
    ("#### 11/2", "1½", WRONG),
    ("#### 9007199254740992", "9007199254740993", WRONG),
    # no answer, or not one
    ("The answer is 18.", "18", NO_ANSWER),
    (r"\boxed{18}", "18", NO_ANSWER),
    ("#### eighteen", "18", NO_ANSWER),
    ("####\n18", "18", NO_ANSWER),  # the number has to be on the same line
    ("#### 18 or 20", "18", NO_ANSWER),
    ("#### 18, 20", "18", NO_ANSWER),
    ("#### 12,34", "1234", NO_ANSWER),
    ("#### 1.8.0", "18", NO_ANSWER),
    ("#### 1e3", "1", NO_ANSWER),
    ("#### 18/0", "18", NO_ANSWER),
    ("#### 18\n####", "18", NO_ANSWER),
    ("### 18", "18", NO_ANSWER),
]


@pytest.mark.parametrize(("answer", "truth", "expected"), HARD_CASES)
def test_hard_cases(answer, truth, expected):
    assert score(answer, truth) == expected


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        ("The answer is 18.", "18", RIGHT),
        ("She has 20 - 2 = $18 left.", "18", RIGHT),
        (r"\boxed{18}", "18", RIGHT),
        ("It is 1,800 km", "1800", RIGHT),
        ("18 apples, not 20", "18", WRONG),  # the last number counts
        ("#### 18\nor was it 20?", "18", RIGHT),  # what is marked comes first
        ("none", "18", NO_ANSWER),
    ],
)
def test_flexible_falls_back_to_the_last_number(answer, truth, expected):
    assert score(answer, truth, flexible=True) == expected


ODD = [None, "", 18, b"#### 18", ["#### 18"], "\ud800#### \udfff", "#### \0", "####" * 25_000, "#### " + "9" * 100_000]


@pytest.mark.parametrize("odd", ODD)
def test_odd_answers_score_zero_without_raising(odd):
    assert score(odd, "18")["score"] == 0.0
    assert score(odd, "18", flexible=True)["score"] == 0.0


def test_huge_answers_are_read():
    assert score("x " * 50_000 + "\n#### 18", "18") == RIGHT
    assert score("#### 18\n" + "x " * 50_000, "18") == RIGHT


@pytest.mark.parametrize("truth", [None, "", "eighteen", "12,34", [], [None], ["x"], {"a": 1}, float("nan"), "####"])
def test_unusable_truth_is_named(truth):
    with pytest.raises(ValueError, match="ground_truth="):
        score("#### 18", truth)


def test_misspelled_parameter_is_refused():
    with pytest.raises(ValueError, match="flexibel=True"):
        score("#### 18", "18", flexibel=True)
    assert score("#### 18", "18", reward_router_address=None, reward_model_tokenizer=None) == RIGHT  # verl adds these


def test_solutions_against_their_own_and_a_changed_answer():
    """Solutions in the form of GSM8K's, with calculator marks, as many kinds of number as the real set has."""
    draw = random.Random(0)
    for _ in range(500):
        value = draw.choice([draw.randint(-50, 50), draw.randint(0, 2_000_000), round(draw.random() * 100, 2)])
        text = draw.choice([str(value), f"{value:,}"])
        solution = f"He pays 3 x {value} = $<<3*{value}={3 * value}>>{3 * value} at first.\nThen less.\n#### {text}"
        assert score(solution, text) == RIGHT
        assert score(solution, solution) == RIGHT
        assert score(solution, str(value + 1)) == WRONG


def test_throughput():
    """100,000 calls a second are promised on a free core; a busy test machine gets a third of that as its limit."""
    answer = "She eats three for breakfast and bakes muffins with four. " * 5 + "\n#### 72"
    answers = [answer, answer[:-2] + "73", answer.replace("#", "")]
    score(answer, "72")
    started = time.perf_counter()
    for _ in range(5_000):
        for one in answers:
            gsm8k(data_source="openai/gsm8k", solution_str=one, ground_truth="72", extra_info=None)
    assert 15_000 / (time.perf_counter() - started) > 33_000
