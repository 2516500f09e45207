"""Early stopping and the best step, by hand-made scores."""

import json
import math
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

import common.callbacks
from common.callbacks import RunCallback, not_finite
from common.metrics.validations import Validations
from common.rewards.errors import RewardError, RewardErrors, read_errors, size
from common.run_dir import read_early_stop
from common.step_figures import reward_figures, spread_figures
from common.verl_ext.share_cut import share_cut


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


@pytest.mark.parametrize(("best", "noise"), [(0.3, 1e-7), (-2.0, 1e-6), (250.0, 1e-3)])
def test_rounding_is_no_better_score(best, noise):
    assert fed(2, [(step, best + step * noise) for step in range(3)])[1] == [False, False, True]
    assert fed(2, [(step, best + step * 0.01 * abs(best)) for step in range(9)])[1] == [False] * 9


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


def test_answers_that_end_before_the_limit_are_not_cut():
    """verl's clip ratio counts answers as long as the longest one of the batch."""
    metrics = {"response_length/max": 17.0, "response_length/clip_ratio": 0.7, "response_length/mean": 15.0}
    assert share_cut(metrics, 24) == {"response_length/clip_ratio": 0.0}
    assert share_cut(metrics, 17) == {} and share_cut({}, 24) == {}


def test_figures_of_the_reward():
    infos = [{"score": 1, "acc": 1.0, "text": "x", "n": True}, {"score": 0, "acc": 0.0, "n": False}, {"acc": math.nan}]
    fields = [{"reward_extra_info": info} for info in infos] + [{}, {"reward_extra_info": None}]
    assert reward_figures(fields) == {"reward/acc/mean": 0.5, "reward/n/mean": 0.5}
    counted = [{"reward_extra_info": {"reward_error": value}} for value in (0.0, 1.0, 1.0, 0.0)]
    assert reward_figures(counted) == {"reward/reward_error/mean": 0.5, "reward/reward_error/count": 2.0}


def test_spread_of_all_scores_and_within_groups():
    """Two questions with scores 0, 1 and 2, 4: sample deviations sqrt(0.5) and sqrt(2); all four: sqrt(35/12)."""
    keys = ["a_0_0", "a_1_0", "b_0_0", "b_0_1", "b_1_0"]
    found = spread_figures(keys, [0.0, 1.0, 9.0, 2.0, 4.0])  # of two outputs of one session the last counts
    assert found["critic/score/std"] == pytest.approx(math.sqrt(35 / 12))
    assert found["critic/score/group_std"] == pytest.approx((math.sqrt(0.5) + math.sqrt(2)) / 2)
    assert spread_figures(["a_0_0", "b_0_0"], [1.0, 3.0]) == {"critic/score/std": pytest.approx(math.sqrt(2))}
    assert spread_figures(["a_0_0"], [1.0]) == {} and spread_figures(["a_0_0", "a_1_0"], [1.0, math.nan]) == {}


class FakeTrainer:
    """What of verl's trainer the callback touches."""

    def __init__(self, folder, total):
        self.folder, self.total_training_steps, self.global_steps = folder, total, 0
        self.logged, self.saves, self.slept, self.trainer_mode = [], [], 0, "sync"
        self.logger = SimpleNamespace(log=lambda data, step: self.logged.append((step, data)))
        self.checkpoint_manager = SimpleNamespace(sleep_replicas=lambda: setattr(self, "slept", self.slept + 1))
        self.kl_ctrl_in_reward = SimpleNamespace(value=0.25)

    def _save_checkpoint(self):
        folder = self.folder / f"global_step_{self.global_steps}"
        (folder / "actor").mkdir(parents=True)
        self.saves.append(self.global_steps)
        self.callback.on_save(self, self.global_steps, str(folder))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A callback and its trainer, without verl's, whose export is only noted."""

    def make(patience=0, keep=1, total=100):
        checkpoints = tmp_path / "checkpoints"
        config = {"trainer": {"default_local_dir": str(checkpoints), "keep_checkpoints": keep}}
        config["trainer"]["early_stop_patience"] = patience
        trainer = FakeTrainer(checkpoints, total)
        trainer.callback = callback = RunCallback(OmegaConf.create(config))
        callback.exported = []
        monkeypatch.setattr(callback, "_export", lambda folder: callback.exported.append(folder.name))
        monkeypatch.setattr(common.callbacks, "answers_of", lambda batch, *names: ([], {"extra_fields": batch or []}))
        monkeypatch.setattr(common.callbacks, "to_remove", lambda run, keep, keep_steps: [])
        return callback, trainer

    return make


def test_stopping_saves_exports_and_says_why(trained, tmp_path):
    callback, trainer = trained(patience=1)
    callback.on_start(trainer, 0)
    for step, score in ((0, 0.5), (5, 0.4)):
        trainer.global_steps = step
        callback.on_validate(trainer, {"val-core/x/acc/mean@1": score}, 10)
    assert trainer.total_training_steps == 5 and trainer.saves == [5] and trainer.slept == 1
    assert callback.exported == ["global_step_5"]
    assert read_early_stop(tmp_path)["step"] == 5 and "has not improved" in read_early_stop(tmp_path)["reason"]
    assert json.loads((tmp_path / "checkpoints" / "global_step_5" / "kl_coef.json").read_text()) == 0.25


def test_a_step_that_is_saved_already_is_not_saved_again(trained):
    callback, trainer = trained(patience=1)
    callback.on_start(trainer, 0)
    callback.on_validate(trainer, {"val-core/x/acc/mean@1": 0.5}, 10)
    trainer.global_steps = 5
    trainer._save_checkpoint()
    callback.on_validate(trainer, {"val-core/x/acc/mean@1": 0.5}, 10)
    assert trainer.saves == [5] and callback.exported == ["global_step_5"]


def test_nan_ends_the_run_before_it_is_saved_and_is_in_the_metrics(trained):
    callback, trainer = trained()
    trainer.global_steps = 7
    with pytest.raises(FloatingPointError, match="Policy loss is nan at step 7: training has blown up"):
        callback.on_step(trainer, None, {"actor/pg_loss": math.nan})
    assert trainer.logged[0][0] == 7 and trainer.saves == []


def test_the_kl_coefficient_is_taken_up_again(trained, tmp_path):
    callback, trainer = trained()
    folder = tmp_path / "checkpoints" / "global_step_3"
    folder.mkdir(parents=True)
    (folder / "kl_coef.json").write_text("0.125")
    trainer.global_steps = 3
    callback.on_start(trainer, 3)
    assert trainer.kl_ctrl_in_reward.value == 0.125


def test_rewards_that_raise_end_the_run_with_the_figures_written(trained, tmp_path):
    """with 1 of 100 answers it continues, with 2 of 100 not; errors of an earlier attempt do not count."""
    RewardErrors(tmp_path).call(lambda: 1 / 0)
    callback, trainer = trained()
    trainer.global_steps = 3
    answers = [{"reward_extra_info": {"reward_error": float(row < 2)}} for row in range(100)]
    metrics = {}
    callback.on_step(trainer, answers[1:] + answers[99:], metrics)
    assert metrics["reward/reward_error/count"] == 1.0 and trainer.logged == []
    RewardErrors(tmp_path).call(lambda: [][1])
    with pytest.raises(RewardError, match="on 2 of 100 answers at step 3: IndexError: list index out of range"):
        callback.on_step(trainer, answers, metrics)
    assert trainer.logged[0][1]["reward/reward_error/mean"] == 0.02
    with pytest.raises(RewardError, match="on 5 of 10 answers"):
        callback.on_validate(trainer, {"val-aux/x/reward_error/mean@1": 0.5, "val-core/x/acc/mean@1": 0.5}, 10)
    assert size(tmp_path) > 0 and len(read_errors(tmp_path)) == 2
