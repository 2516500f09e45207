"""The metric table: renaming verl's keys, and the health rules with their false alarms."""

from __future__ import annotations

import math

import pytest

from common.metrics.names import BY_NAME, METRICS, check_health, friendly, tells

# Step 1 of a real GRPO run of verl on a CPU, shortened.
GRPO_STEP_1 = {
    "actor/entropy": 0.75,
    "training/rollout_actor_probs_pearson_corr": 0.9999957084655762,
    "actor/pg_clipfrac": 0.0,
    "actor/ppo_kl": 0.0,
    "actor/pg_loss": -4.984856971645968e-10,
    "actor/kl_loss": 0.0,
    "actor/kl_coef": 0.001,
    "actor/grad_norm": 0.056824762374162674,
    "actor/lr": 0.0001,
    "critic/score/mean": 0.0078125,
    "critic/score/max": 1.0,
    "critic/score/min": 0.0,
    "critic/rewards/mean": 0.0078125,
    "critic/advantages/mean": 8.545468777043652e-10,
    "response_length/mean": 6.5390625,
    "response_length/max": 8.0,
    "response_length/clip_ratio": 0.0078125,
    "perf/total_num_tokens": 2733,
    "perf/time_per_step": 3.879071368000041,
    "perf/throughput": 704.5500690050649,
}


def names(history: list[dict], **options) -> list[str]:
    return [warning.name for warning in check_health(history, **options)]


def test_grpo_step_gets_the_names_users_know():
    step = friendly(GRPO_STEP_1)
    assert step["reward_mean"] == 0.0078125
    assert step["policy_loss"] == -4.984856971645968e-10
    assert step["kl_divergence"] == 0.0
    assert step["learning_rate"] == 0.0001
    assert step["step_time"] == 3.879071368000041
    assert step["tokens_per_second"] == 704.5500690050649
    assert step["response_clip_ratio"] == 0.0078125
    assert "loss" not in step and "value_loss" not in step


def test_sft_step_and_its_validation():
    train = {"train/loss": 5.6875, "train/grad_norm": 10.4, "train/lr": 0.002, "train/global_tokens": 1430}
    assert friendly(train) == {"loss": 5.6875, "grad_norm": 10.4, "learning_rate": 0.002, "step_tokens": 1430.0}
    assert friendly({"val/loss": 0.7421875}) == {"val_loss": 0.7421875}


def test_first_source_present_wins():
    assert friendly({"critic/rewards/mean": 0.1, "critic/score/mean": 0.5})["reward_mean"] == 0.5
    assert friendly({"critic/rewards/mean": 0.1})["reward_mean"] == 0.1
    # KL to the reference: the loss form of GRPO, or the reward form of PPO; never actor/ppo_kl.
    assert friendly({"actor/reward_kl_penalty": 0.03})["kl_divergence"] == 0.03
    assert "kl_divergence" not in friendly({"actor/ppo_kl": 0.03})


def test_validation_score_comes_from_any_data_source_and_averages_several():
    data = {
        "val-core/openai/gsm8k/acc/mean@1": 0.6,
        "val-core/math/acc/mean@1": 0.2,
        "val-core/math/acc/best@4/mean": 0.9,
        "val-aux/math/reward/mean@1": 0.1,
    }
    assert friendly(data)["val_score"] == pytest.approx(0.4)
    assert friendly({"val-core/helpful/reward/mean@1": -1.5})["val_score"] == -1.5


def test_reward_spread_is_exact_for_two_valued_rewards():
    # 1 of 4 answers scores 1: the standard deviation is sqrt(0.25 * 0.75).
    data = {"critic/score/mean": 0.25, "critic/score/max": 1.0, "critic/score/min": 0.0}
    assert friendly(data)["reward_std_bound"] == pytest.approx(0.4330127)
    assert friendly(data | {"critic/score/std": 0.5})["reward_std"] == 0.5
    assert "reward_std_bound" not in friendly(data | {"critic/score/std": 0.5})
    equal = {"critic/score/mean": 0.3, "critic/score/max": 0.3, "critic/score/min": 0.3}
    assert friendly(equal)["reward_std_bound"] == 0.0


def test_numbers_only_nan_kept_and_null_read_as_nan():
    step = friendly({"train/loss": float("nan"), "train/grad_norm": None, "train/lr": "1e-4", "val/loss": True})
    assert math.isnan(step["loss"]) and math.isnan(step["grad_norm"])
    assert set(step) == {"loss", "grad_norm"}


def test_dpo_names():
    step = friendly({"rewards/margins": 0.4, "rewards/accuracies": 0.8, "logps/chosen": -12.0, "train/loss": 0.6})
    assert step == {"loss": 0.6, "reward_accuracy": 0.8, "reward_margin": 0.4, "chosen_logp": -12.0}


@pytest.mark.parametrize(
    ("name", "bad", "good", "knob"),
    [
        ("kl_divergence", 0.2, 0.05, "KL_LOSS_COEF"),
        ("entropy", 0.001, 0.3, "TEMPERATURE"),
        ("grad_norm", 0.0, 0.1, "LEARNING_RATE"),
        ("reward_std", 0.0, 0.2, "ROLLOUT_N"),
        ("clip_fraction", 0.5, 0.2, "CLIP_RATIO"),
        ("response_clip_ratio", 0.8, 0.3, "MAX_RESPONSE_LENGTH"),
        ("rollout_corr", 0.9, 0.99, "ROLLOUT_ENGINE"),
    ],
)
def test_a_limit_must_be_broken_three_times_in_a_row(name: str, bad: float, good: float, knob: str):
    assert names([{name: bad}] * 2) == []
    assert names([{name: bad}, {name: good}, {name: bad}, {name: bad}]) == []
    assert names([{name: good}] * 9) == []
    (warning,) = check_health([{name: good}, {}] + [{name: bad}, {"loss": 1.0}] * 3)  # steps without it are skipped
    assert (warning.name, warning.value) == (name, bad)
    assert knob in warning.advice


def test_reward_of_zero_for_five_steps_hides_what_it_explains():
    step = {"reward_mean": 0.0, "reward_std": 0.0, "grad_norm": 0.0, "policy_loss": 0.0}
    assert names([step] * 4) == ["reward_std"]
    (warning,) = check_health([step] * 5)
    assert warning.name == "reward_mean" and "REWARD_FUNC_PATH" in warning.advice


def test_one_reward_that_raised_is_said_at_once():
    assert names([{"reward_errors": 0.0}] * 9) == []
    (warning,) = check_health([{"reward_errors": 0.0}, {"reward_errors": 2.0}])
    assert str(warning).startswith("Answers whose reward raised 2: They count 0")
    shares = {"val-aux/a/reward_error/mean@1": 0.0, "val-aux/b/reward_error/mean@1": 0.5}
    assert names([friendly(shares)]) == ["val_reward_errors"] and friendly(shares)["val_reward_errors"] == 0.25


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["loss", "policy_loss", "value_loss", "grad_norm", "val_loss"])
def test_nan_and_infinity_fire_at_once(name: str, value: float):
    (warning,) = check_health([{name: 1.0}, {name: value}])
    assert warning.name == name and "LEARNING_RATE" in warning.advice
    assert names([{name: value}, {name: 1.0}]) == []


def test_nan_where_verl_means_not_measured_is_no_alarm():
    assert names([{"rollout_corr": float("nan")}] * 5) == []
    (warning,) = check_health([{"reward_mean": float("nan")}])
    assert "REWARD_FUNC_PATH" in warning.advice


def test_validation_loss_that_rises_three_times_is_overfit():
    rising = [{"val_loss": 0.60}, {"loss": 0.1}, {"val_loss": 0.62}, {"val_loss": 0.65}, {"val_loss": 0.70}]
    (warning,) = check_health(rising)
    assert warning.name == "val_loss" and "TOTAL_EPOCHS" in warning.advice
    assert names(rising[:-1]) == []
    assert names([{"val_loss": value} for value in (0.600, 0.601, 0.602, 0.603)]) == []  # 0.5 percent: noise


def test_short_equal_answers_are_not_cut_answers():
    # verl's clip_ratio compares with the longest answer of the batch, 8 tokens here.
    history = [{"response_clip_ratio": 0.54, "response_length_max": 8.0}] * 3
    assert names(history, max_response_length=16) == []
    assert names(history, max_response_length=8) == ["response_clip_ratio"]
    varying = [{"response_clip_ratio": 0.54, "response_length_max": length} for length in (8.0, 7.0, 7.0, 7.0)]
    assert names(varying) == []


def test_low_entropy_of_a_solved_task_is_no_collapse():
    assert names([{"entropy": 0.005, "reward_mean": 0.98, "reward_max": 1.0}] * 3) == []
    assert names([{"entropy": 0.005, "reward_mean": 0.30, "reward_max": 1.0}] * 3) == ["entropy"]


def test_kl_is_accepted_while_the_reward_still_rises():
    rising = [{"kl_divergence": 0.3, "reward_mean": 0.1 * step} for step in range(1, 7)]
    assert names(rising) == []
    assert names([{**step, "kl_divergence": 2.0} for step in rising]) == ["kl_divergence"]
    assert names([{**step, "reward_mean": 0.5} for step in rising]) == ["kl_divergence"]


def test_a_healthy_run_and_an_empty_one_are_silent():
    assert check_health([]) == []
    assert check_health([friendly(GRPO_STEP_1)] * 30) == []


def test_every_row_of_the_table_is_complete():
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        format(1.5, metric.number)
        assert metric.below or (metric.low is None and not metric.zero_steps), metric.name
        assert metric.above or metric.high is None, metric.name


# ---- asynchronous runs ------------------------------------------------------------------------------------------


def test_age_of_the_answers_and_what_is_dropped():
    data = {
        "training/off_policy/trajectory_staleness/mean": 1.5,
        "training/off_policy/trajectory_spans/mean": 1.25,
        "training/off_policy/evicted_samples": 3,
        "training/rollout_probs_diff_mean": 0.02,
    }
    step = friendly(data)
    assert step == {"staleness": 1.5, "answer_span": 1.25, "dropped_stale": 3.0, "rollout_gap": 0.02}
    (warning,) = check_health([step | {"dropped_stale": 0.0, "staleness": 2.5}] * 3)
    assert warning.name == "staleness" and "ROLLOUT_GPUS" in warning.advice
    (warning,) = check_health([step] * 3)
    assert warning.name == "dropped_stale" and "MAX_OFF_POLICY_STRATEGY=wait" in warning.advice


def test_old_answers_are_no_broken_engine_and_a_broken_engine_is_no_old_answer():
    """The same figures have two causes, and another knob helps against each."""
    apart = {"rollout_corr": 0.8, "rollout_gap": 0.2}
    assert names([apart | {"staleness": 0.0}] * 3) == ["rollout_corr"]
    assert names([apart] * 3) == ["rollout_corr"]  # logs of other trainers
    (warning,) = check_health([apart | {"staleness": age} for age in (1.0, 0.0, 0.0)])
    assert warning.name == "rollout_gap" and "MAX_OFF_POLICY_THRESHOLD" in warning.advice
    assert names([apart | {"staleness": age} for age in (1.0, 0.0, 0.0, 0.0)]) == ["rollout_corr"]


def test_a_run_in_step_has_no_panel_of_its_age():
    assert not tells("staleness", [0.0, 0.0]) and not tells("answer_span", [1.0, 1.0])
    assert tells("staleness", [0.0, 1.0, 0.0]) and tells("answer_span", [1.0, 1.1]) and tells("turns", [0.0])
