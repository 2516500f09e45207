"""Rewards that compare texts. SQuAD's own evaluation gives the expected values of its rules."""

import threading
import time

import numpy as np
import pytest

from common.reward_functions import exact_match, format_match, normalized_match

RIGHT = {"score": 1.0, "acc": 1.0, "format": 1.0}
WRONG = {"score": 0.0, "acc": 0.0, "format": 1.0}
NO_ANSWER = {"score": 0.0, "acc": 0.0, "format": 0.0}


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        ("Paris", "Paris", RIGHT),
        (" Paris\n", "Paris", RIGHT),
        ("paris", "Paris", WRONG),
        ("Well.\n<answer> Paris </answer>", "Paris", RIGHT),
        ("<answer>Rome</answer> no <answer>Paris</answer>", "Paris", RIGHT),
        ("I say\n#### Paris\nbye", "Paris", RIGHT),
        (r"so \boxed{Paris}", "Paris", RIGHT),
        ("Paris it is", "Paris", WRONG),
        ("Paris", {"target": ["Rome", "Paris"]}, RIGHT),  # Search-R1
        ("Paris", {"text": np.array(["Paris"], dtype=object), "answer_start": np.array([3])}, RIGHT),  # SQuAD
        ("Paris", '["Rome", "Paris"]', RIGHT),  # a list in a text, as older files have it
        ("3", np.array([3, 4]), RIGHT),
        ("[1, 2]", "[1, 2]", RIGHT),
        ("1", "[1, 2]", WRONG),  # a list of numbers is one answer
        ("Paris", ["Rome", "Paris"], RIGHT),
        ("Paris", np.array(["Rome", "Paris"], dtype=object), RIGHT),
        ("72", 72, RIGHT),
        ("", "Paris", NO_ANSWER),
        (None, "Paris", NO_ANSWER),
        (["Paris"], "Paris", NO_ANSWER),
        ("\ud800", "Paris", WRONG),
        ("<answer>" * 12_000, "Paris", WRONG),
    ],
)
def test_exact_match(answer, truth, expected):
    assert exact_match("qa", answer, truth) == expected


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        # the four steps of SQuAD's evaluate-v1.1.py: lower case, punctuation, articles, white space
        ("THE  Eiffel-Tower!", "eiffeltower", RIGHT),
        ("an apple", "Apple", RIGHT),
        ("a the an apple", "apple", RIGHT),
        ("theatre", "atre", WRONG),  # articles are whole words
        ("U.S.", "us", RIGHT),
        ("new   york\tcity", "New York City", RIGHT),
        # ours: full width and Chinese punctuation
        ("Ｐａｒｉｓ。", "paris", RIGHT),
        ("“巴黎”，", "巴黎", RIGHT),
        ("Rome", "Paris", WRONG),
        ("!!!", "Paris", WRONG),
        ("x" * 100_000, "Paris", WRONG),
        (None, "Paris", NO_ANSWER),
    ],
)
def test_normalized_match(answer, truth, expected):
    assert normalized_match("qa", answer, truth) == expected


@pytest.mark.parametrize("reward", [exact_match, normalized_match])
@pytest.mark.parametrize("truth", [None, "", "  ", [], [None], {"a": 1}, True])
def test_unusable_truth_is_named(reward, truth):
    with pytest.raises(ValueError, match="ground_truth="):
        reward("qa", "Paris", truth)


def test_a_truth_of_articles_or_punctuation_counts_word_for_word():
    assert normalized_match("qa", "the", "The.") == RIGHT
    assert normalized_match("qa", "<answer>!!</answer>", "!!") == RIGHT
    assert normalized_match("qa", "<answer>??</answer>", "!!") == WRONG


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<think>\n2 + 2\n</think>\n<answer>4</answer>", 1.0),
        ("<think></think><answer></answer>", 1.0),
        ("<answer>4</answer>", 0.0),
        ("Hi <think>x</think><answer>4</answer>", 0.0),
        ("<think>x</think><answer>4", 0.0),
        ("<think>x</think><answer>4</answer><answer>5</answer>", 0.0),  # two answers are none
        ("<think>x</think><answer>4</answer><think>y</think><answer>5</answer>", 0.0),
        ("<think>x</think>y</think><answer>4</answer>", 0.0),
        ("<think>x<answer>5</answer></think><answer>4</answer>", 0.0),
        ("<think>x</think><answer>a < b, <b>4</b></answer>\n", 1.0),
        ("", 0.0),
        (None, 0.0),
        ("\ud800", 0.0),
        ("<think>" * 15_000, 0.0),
        ("<think>" + "x" * 300_000 + "</think><answer>4</answer>", 0.0),  # over max_chars
    ],
)
def test_format_match(answer, expected):
    assert format_match("any", answer, "4") == expected


def test_format_match_with_an_own_pattern():
    assert format_match("any", "so\n#### 4", "4", pattern=r".*\n#### \d+") == 1.0
    assert format_match("any", "so\n#### 4!", "4", pattern=r".*\n#### \d+") == 0.0
    with pytest.raises(ValueError, match=r"pattern='\('"):
        format_match("any", "x", "4", pattern="(")


def test_a_search_that_runs_away_is_given_up_in_a_thread():
    """(a|aa)+$ takes exponential time on this text; other threads run on meanwhile."""
    result = []
    started = time.perf_counter()
    call = {"pattern": "(a|aa)+", "timeout_s": 0.2}
    thread = threading.Thread(target=lambda: result.append(format_match("any", "a" * 60 + "b", "4", **call)))
    thread.start()
    thread.join(20)
    assert result == [0.0]
    assert time.perf_counter() - started < 5
