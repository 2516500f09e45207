"""Rewards that shape: values from the papers' formulas, worked out by hand."""

import pytest

from common.reward_functions import language, linear_length, repetition, soft_overlong
from tests.conftest import ROOT

TOKENIZER = ROOT / "common" / "demo_model" / "model"
ODD = [None, 3, b"x", "", "\ud800", "\ud800" * 100_000, "x" * 100_000, "a b " * 25_000, "你" * 100_000]
REWARDS = [soft_overlong, linear_length, repetition, language]


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, 0.0), (79, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (95, -0.75), (100, -1.0), (101, -1.0), (5000, -1.0)],
)
def test_soft_overlong_is_equation_13_of_dapo(length, expected):
    """L_max = 100, L_cache = 20: (80 - |y|) / 20 between 80 and 100."""
    assert soft_overlong("any", "x" * length, "", max_length=100, buffer=20) == pytest.approx(expected)


def test_soft_overlong_defaults_are_those_of_the_paper():
    assert soft_overlong("any", "x" * 16384, "") == 0.0  # expected maximum length
    assert soft_overlong("any", "x" * (16384 + 2048), "") == -0.5
    assert soft_overlong("any", "x" * (16384 + 4096), "") == -1.0


@pytest.mark.parametrize(("length", "expected"), [(0, 0.0), (25, -0.25), (100, -1.0), (500, -1.0)])
def test_linear_length(length, expected):
    assert linear_length("any", "x" * length, "", max_length=100) == expected


def test_lengths_in_tokens():
    from tokenizers import Tokenizer

    text = "What is 7 + 8? 7 + 8 = 15"
    tokens = len(Tokenizer.from_file(str(TOKENIZER / "tokenizer.json")).encode(text, add_special_tokens=False).ids)
    assert tokens != len(text)
    assert linear_length("any", text, "", max_length=100, tokenizer_path=str(TOKENIZER)) == -tokens / 100
    assert linear_length("any", "\ud800", "", tokenizer_path=str(TOKENIZER)) <= 0


def test_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match="tokenizer.json is not there"):
        linear_length("any", "x", "", tokenizer_path=str(tmp_path))


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("one two three four five", 2, 0.0),
        ("a b a b a b", 2, 2 / 5 - 1),  # 5 pairs: ab ba ab ba ab, of which 2 are different
        ("go go go go", 1, 1 / 4 - 1),
        ("Go go", 1, 1 / 2 - 1),
        ("你好你好你好", 2, 2 / 5 - 1),
        ("one two", 3, 0.0),
        ("", 1, 0.0),
    ],
)
def test_repetition(text, n, expected):
    assert repetition("any", text, "", n=n) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("我们先算加法", "zh", 1.0),
        ("我们先算加法", "en", 0.0),
        ("We add first", "en", 1.0),
        ("先算 the sum", "zh", 0.5),  # 2 characters, 2 words
        (r"设 $x = \frac{1}{2}$", "zh", 1.0),  # x and \frac are not words
        ("42", "zh", 0.0),
    ],
)
def test_language(text, target, expected):
    assert language("any", text, "", target=target) == expected


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_answers_get_a_score(reward, odd):
    assert -1.0 <= reward("any", odd, None) <= 1.0


@pytest.mark.parametrize(
    ("reward", "parameters", "words"),
    [
        (soft_overlong, {"buffer": 0}, "buffer=0"),
        (soft_overlong, {"buffer": 30, "max_length": 20}, "buffer=30"),
        (soft_overlong, {"max_lenght": 20}, "max_lenght=20"),
        (linear_length, {"max_length": 0}, "max_length=0"),
        (repetition, {"n": 0}, "n=0"),
        (language, {"target": "fr"}, "target='fr'"),
    ],
)
def test_parameters_out_of_range_are_named(reward, parameters, words):
    with pytest.raises(ValueError, match=words):
        reward("any", "x", "", **parameters)
