"""Intervals and tests against published tables, brute force and other formulas."""

import itertools
import math
import random

import pytest

from common.evaluation.report.significance import (
    holm,
    ks_of,
    majority,
    mcnemar_exact,
    pass_at_k,
    sign_flip_test,
)
from common.intervals import mean_interval, student_t, wilson_interval


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_is_that_of_newcombe(right, total, low, high):
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (30, 2.042), (120, 1.980)]
)
def test_student_t_is_that_of_the_table(degrees, quantile):
    assert student_t(0.95, degrees) == pytest.approx(quantile, abs=2e-3)


def test_mean_interval_by_hand():
    # mean 3, standard deviation sqrt(2.5), 5 values: 3 +- 2.7764 * 0.70711
    assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx((1.0368, 4.9632), abs=2e-3)
    assert mean_interval([0.5]) == (0.5, 0.5)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer():
    for total, right in ((5, 2), (6, 1), (4, 0), (3, 3)):
        answers = [1] * right + [0] * (total - right)
        for k in range(1, total + 1):
            subsets = list(itertools.combinations(answers, k))
            assert pass_at_k(total, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_ks():
    assert [ks_of(n) for n in (1, 2, 5, 8)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]


def test_majority_takes_the_most_frequent_and_of_equal_ones_the_first():
    assert majority(["3", "4", "4"], [0.0, 1.0, 1.0]) == 1.0
    assert majority(["5", "6", "6", "5"], [0.0, 1.0, 1.0, 0.0]) == 0.0


def test_mcnemar_is_the_binomial_test():
    for better, worse in ((1, 9), (0, 5), (7, 7), (12, 30)):
        total, fewer = better + worse, min(better, worse)
        expected = min(1.0, 2 * sum(math.comb(total, i) for i in range(fewer + 1)) / 2**total)
        assert mcnemar_exact(better, worse) == pytest.approx(expected)
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(1000, 1500) < 1e-20


def test_sign_flips_of_few_pairs_are_exact_and_of_many_near_mcnemar():
    # All of 5 equal differences: 2 of 32 sign patterns are as extreme.
    assert sign_flip_test([0.5] * 5 + [0.0] * 10) == pytest.approx(2 / 32)
    assert sign_flip_test([0.0, 0.0]) == 1.0
    differences = [1.0] * 30 + [-1.0] * 14 + [0.0] * 80
    assert sign_flip_test(differences) == pytest.approx(mcnemar_exact(30, 14), abs=0.006)


def test_sign_flips_hold_their_level():
    generator = random.Random(0)
    below = sum(sign_flip_test([generator.gauss(0, 1) for _ in range(20)], seed) < 0.05 for seed in range(60))
    assert below <= 9  # 3 expected


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
