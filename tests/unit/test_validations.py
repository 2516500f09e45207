"""Early stopping and the best step, by hand-made scores."""

import math

import pytest

from common.callbacks import mean_figures, not_finite
from common.validations import Validations


def fed(patience, sequence, **earlier):
    validations = Validations(patience, **earlier)
    stops = []
    for step, score in sequence:
        validations.add(step, score)
        stops.append(bool(validations.reason_to_stop()))
    return validations, stops


def test_stops_after_so_many_without_a_better_score():
    validations, stops = fed(2, [(0, 0.2), (5, 0.5), (10, 0.5), (15, 0.4)])
    assert stops == [False, False, False, True]
    assert validations.reason_to_stop() == (
        "the validation score has not improved for 2 validations (best 0.5 at step 10)"
    )


def test_a_better_score_starts_the_count_again():
    assert fed(2, [(0, 0.2), (5, 0.1), (10, 0.3), (15, 0.2), (20, 0.25)])[1] == [False] * 4 + [True]


def test_no_patience_never_stops():
    assert not any(fed(0, [(step, 0.0) for step in range(20)])[1])


def test_nan_is_never_better():
    validations, stops = fed(2, [(0, 0.2), (5, math.nan), (10, math.nan)])
    assert stops[-1] and validations.best_of([0, 5, 10]) == 0


def test_a_resumed_run_counts_anew_but_knows_the_best():
    validations, stops = fed(2, [(10, 0.5), (15, 0.6), (20, 0.7)], scores={0: 0.2, 5: 0.9, 10: 0.5})
    assert stops == [False, False, True]  # step 10 was validated before
    assert validations.best_of([5, 10, 20]) == 5 and validations.best_of([10, 20]) == 20


def test_the_later_of_two_equals_is_best():
    assert fed(0, [(5, 1.0), (10, 1.0), (15, 0.9)])[0].best_of([5, 10, 15]) == 10
    assert Validations().best_of([1, 2]) is None


@pytest.mark.parametrize("key", ["actor/pg_loss", "critic/vf_loss", "actor/grad_norm", "critic/score/mean"])
@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_nan_is_named(key, value):
    assert not_finite({"actor/pg_loss": 0.1, "actor/pg_clipfrac": math.nan}) is None
    assert not_finite({"actor/entropy": 1.0, key: value})


def test_figures_of_the_reward():
    infos = [{"score": 1, "acc": 1.0, "text": "x", "n": True}, {"score": 0, "acc": 0.0, "n": False}, {"acc": math.nan}]
    assert mean_figures(infos) == {"reward/acc/mean": 0.5, "reward/n/mean": 0.5}
