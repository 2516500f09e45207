"""The one table from what trainers print to the names users know, with healthy limits and advice.

`friendly` renames one step of metrics; `check_health` reads the last steps and says what is going wrong and which
knob to change. Pure Python: the terminal, the plots and the monitor all import it. Three facts about verl:

* It logs no spread of the reward. Runs of the kit log it (``common.step_figures``). For other logs `friendly` fills
  `reward_std_bound` from `critic/score/{mean,max,min}`: sqrt((max - mean) * (mean - min)) is the standard deviation of
  rewards with two values (0/1), and an upper bound of it for all others (Bhatia-Davis).
* `response_length/clip_ratio` counts answers as long as the longest *of the batch*, cut or not
  (verl/trainer/ppo/v1/trainer_base.py pads to that length). It only means "cut" when the longest hit the limit. Runs of
  the kit log 0 otherwise (``common.verl_ext.share_cut``); the rule here is for other logs.
* Its `file` logger writes NaN and infinity as null, so `friendly` reads None as nan.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Real

from common.metrics.trends import TRENDS

PATIENCE = 3  # steps in a row that a limit must be broken before a warning


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Args:
        name: The kit's name, e.g. "reward_mean".
        sources: verl keys, the first one present wins. A key with * is a pattern; its matches are averaged.
        label: Text for plots and tables.
        group: Panel order in plots; "" keeps the metric out of them.
        zh: The label in Chinese.
        better: "higher" or "lower", "" where neither way is better.
        validates: The metric of training that this one measures on the validation data, "" for none. It is measured
            now and then, so it is drawn as points, in the panel of that metric.
        headline: Place among the metrics that say what a run has reached, from 1; 0: not one of them.
        short: A headline of validation as the terminal names it.
        compared: Shown when runs are compared and none was chosen.
        rising: Warn, with `above`, when it rises three values in a row.
        unit: For the axis, "" for none.
        low: Warn at or below this value (None: no limit).
        high: Warn above this value (None: no limit).
        below: One sentence for "too low": what it means and which knob to change.
        above: The same for "too high".
        idle: A curve that never leaves this value has no panel: it tells of something that the run does not do.
        zero_steps: Warn when exactly 0 for this many values (0: never).
        patience: Values in a row that must break `low` or `high`.
        finite: NaN or infinity is a warning at once.
        number: Format for one value.
    """

    name: str
    sources: tuple[str, ...]
    label: str
    group: str
    zh: str = field(kw_only=True)
    unit: str = ""
    better: str = ""
    validates: str = ""
    headline: int = 0
    short: str = ""
    compared: bool = False
    rising: bool = False
    low: float | None = None
    high: float | None = None
    below: str = ""
    above: str = ""
    idle: float | None = None
    zero_steps: int = 0
    patience: int = PATIENCE
    finite: bool = False
    number: str = ".4g"


@dataclass(frozen=True)
class HealthWarning:
    """A metric that has left its healthy range.

    Args:
        name: Of the metric.
        value: Its last one.
        advice: What it means and which knob to change.
        trend: It is how the metric moves, not a limit (`common.metrics.trends`).
    """

    name: str
    value: float
    advice: str
    trend: bool = False

    def __str__(self) -> str:
        metric = BY_NAME[self.name]
        return f"{metric.label} {format(self.value, metric.number)}: {self.advice}"


_ALL_ALIKE = (
    "All answers score the same, so there is nothing to learn: raise ROLLOUT_N or TEMPERATURE, use data the model "
    "solves sometimes, or give partial credit in REWARD_FUNC_PATH."
)

# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("reward_mean", ("critic/score/mean", "critic/rewards/mean", "reward_mean"), "Reward (mean)", "1 reward",
           zh="平均奖励",
           better="higher", headline=4, compared=True,
           zero_steps=5, finite=True, number=".3f",
           below="Every answer scores 0: test REWARD_FUNC_PATH on real rows, and start from a model that is "
                 "sometimes right (train SFT first) or from easier data."),
    Metric("reward_std", ("critic/score/std", "reward_std"), "Reward (standard deviation)", "1 reward",
           zh="奖励标准差",
           zero_steps=PATIENCE, number=".3f", below=_ALL_ALIKE),
    Metric("reward_group_std", ("critic/score/group_std",), "Reward (standard deviation within a group)", "1 reward",
           zh="组内奖励标准差",
           zero_steps=PATIENCE, number=".3f",
           below="The answers to each question score the same, so there is nothing to learn: raise ROLLOUT_N or "
                 "TEMPERATURE, use data the model solves sometimes, or give partial credit in REWARD_FUNC_PATH."),
    Metric("reward_std_bound", (), "Reward (standard deviation at most)", "1 reward",
           zh="奖励标准差（上界）",
           zero_steps=PATIENCE, number=".3f", below=_ALL_ALIKE),
    Metric("dead_groups", ("critic/score/dead_groups",), "Groups that teach nothing", "1 reward",
           zh="没有学习信号的组",
           high=0.8, number=".2f",
           above="In most groups all answers score the same, so their prompts teach nothing: use VARIANT=dapo, which "
                 "drops them, leave out rows that are always or never solved, or raise ROLLOUT_N."),
    Metric("accuracy_reward", ("reward/acc/mean", "reward/accuracy/mean", "reward/accuracy_reward/mean"),
           "Right answers", "1 reward",
           zh="正确的回答",
           better="higher", number=".3f"),
    Metric("format_reward", ("reward/format/mean", "reward/format_reward/mean"), "Answers in the right form",
           "1 reward",
           zh="格式正确的回答",
           number=".3f"),
    Metric("reward_errors", ("reward/reward_error/count",), "Answers whose reward raised", "",
           zh="奖励函数报错的回答数",
           high=0, patience=1, number=".0f",
           above="They count 0, which is wrong for a right answer; above 1 % of a step the run ends. "
                 "reward_errors.jsonl has the rows and the messages: correct the function in REWARD_FUNC_PATH."),
    Metric("val_reward_errors", ("val-aux/*/reward_error/mean@*",), "Validation: share of rewards that raised", "",
           zh="验证：奖励函数报错的比例",
           high=0, patience=1, number=".3f",
           above="They count 0, so the validation score is too low: reward_errors.jsonl has the rows and messages."),
    Metric("reward_max", ("critic/score/max",), "Reward (best)", "",
           zh="最高奖励",
           number=".3f"),
    Metric("reward_min", ("critic/score/min",), "Reward (worst)", "",
           zh="最低奖励",
           number=".3f"),
    Metric("val_score", ("val-core/*/acc/mean@*", "val-core/*/reward/mean@*", "val-aux/*/reward/mean@*", "val_score"),
           "Validation score", "1 reward",
           zh="验证得分",
           better="higher", validates="reward_mean", headline=1, short="validation score", compared=True,
           number=".3f"),
    Metric("loss", ("train/loss", "loss"), "Loss", "2 loss",
           zh="损失",
           better="lower", headline=5, compared=True,
           finite=True),
    Metric("val_loss", ("val/loss", "val_loss"), "Validation loss", "2 loss",
           zh="验证损失",
           better="lower", validates="loss", headline=3, short="validation loss", rising=True, compared=True,
           finite=True,
           above="It has risen three validations in a row, so the model memorises the training data: stop earlier "
                 "(lower TOTAL_EPOCHS), lower LEARNING_RATE, or add data."),
    Metric("policy_loss", ("actor/pg_loss", "policy_loss"), "Policy loss", "2 loss",
           zh="策略损失",
           headline=6,
           finite=True),
    Metric("value_loss", ("critic/vf_loss", "value_loss"), "Value loss (critic)", "2 loss",
           zh="价值损失",
           finite=True),
    # The KL to the *reference model*. verl reports it as kl_loss (KL as a loss: GRPO, GSPO) or as reward_kl_penalty
    # (KL in the reward: PPO), and not at all without a reference model. actor/ppo_kl is another thing: see update_kl.
    Metric("kl_divergence", ("actor/kl_loss", "actor/reward_kl_penalty", "kl_divergence"), "KL to reference model",
           "3 policy",
           zh="与参考模型的 KL",
           compared=True,
           high=0.1, finite=True,
           above="The model drifts too far from where it started: raise KL_LOSS_COEF or lower LEARNING_RATE, and "
                 "read some answers for reward hacking."),
    Metric("update_kl", ("actor/ppo_kl",), "KL of one update", "3 policy",
           zh="单次更新的 KL"),
    Metric("entropy", ("actor/entropy", "actor/entropy_loss", "entropy"), "Entropy", "3 policy",
           zh="熵",
           compared=True,
           unit="nats/token",
           low=0.02, finite=True, number=".3f",
           below="The model gives nearly the same answer every time and no longer explores: raise TEMPERATURE or "
                 "CLIP_RATIO_HIGH, or lower LEARNING_RATE, and resume from an earlier checkpoint."),
    Metric("clip_fraction", ("actor/pg_clipfrac", "clip_fraction"), "Clipped tokens", "3 policy",
           zh="裁剪比例",
           high=0.3,
           above="Too much of each update is cut off by the clip range: lower LEARNING_RATE, raise MINI_BATCH_SIZE "
                 "towards BATCH_SIZE (fewer updates per batch), or widen CLIP_RATIO_LOW and CLIP_RATIO_HIGH."),
    Metric("rollout_corr", ("training/rollout_actor_probs_pearson_corr",), "Rollout / trainer agreement", "3 policy",
           zh="采样与训练的一致性",
           low=0.95, number=".4f",
           below="The engine that writes the answers and the trainer disagree about their probabilities, so the "
                 "updates are wrong: try another ROLLOUT_ENGINE or version of it, do not quantise its weights, and "
                 "set TEMPERATURE=1.0."),
    Metric("advantage_mean", ("critic/advantages/mean",), "Advantage (mean)", "3 policy",
           zh="平均优势"),
    Metric("advantage_max", ("critic/advantages/max",), "Advantage (largest)", "3 policy",
           zh="最大优势",
           low=1e-3,
           below="All advantages are 0, so the weights get no direction: the answers to each question score the same. "
                 "Raise ROLLOUT_N or TEMPERATURE, or use data the model solves sometimes."),
    Metric("explained_variance", ("critic/vf_explained_var",), "Critic explained variance", "3 policy",
           zh="价值解释方差",
           number=".3f"),
    Metric("kl_coef", ("actor/reward_kl_penalty_coeff", "actor/kl_coef"), "KL coefficient", "3 policy",
           zh="KL 系数"),
    Metric("dropped_groups", ("training/filter_groups/evicted_samples",), "Groups dropped (all answers alike)",
           "3 policy",
           zh="丢弃的组（得分相同）",
           number=".0f"),
    Metric("reward_accuracy", ("rewards/accuracies", "train/rewards/accuracies"), "Chosen beats rejected",
           "4 preference",
           zh="偏好准确率",
           better="higher", compared=True,
           number=".3f"),
    Metric("val_accuracy", ("val/rewards/accuracies", "val_accuracy"), "Validation: chosen beats rejected",
           "4 preference",
           zh="验证偏好准确率",
           better="higher", validates="reward_accuracy", headline=2,
           short="validation accuracy",
           number=".3f"),
    Metric("val_margin", ("val/rewards/margins",), "Validation: reward margin", "4 preference",
           zh="验证奖励间隔",
           better="higher", validates="reward_margin"),
    Metric("reward_margin", ("rewards/margins", "train/rewards/margins"), "Reward margin", "4 preference",
           zh="奖励间隔",
           better="higher"),
    Metric("chosen_reward", ("rewards/chosen", "train/rewards/chosen"), "Reward of chosen", "4 preference",
           zh="被选回答的奖励"),
    Metric("rejected_reward", ("rewards/rejected", "train/rewards/rejected"), "Reward of rejected", "4 preference",
           zh="被拒回答的奖励"),
    Metric("chosen_logp", ("logps/chosen", "train/logps/chosen"), "Log-prob of chosen", "4 preference",
           zh="被选回答的对数概率"),
    Metric("rejected_logp", ("logps/rejected", "train/logps/rejected"), "Log-prob of rejected", "4 preference",
           zh="被拒回答的对数概率"),
    Metric("val_calibration", ("val/calibration/error",), "Validation: calibration error", "4 preference",
           zh="验证校准误差",
           number=".3f"),
    Metric("length_bias", ("val/length/correlation",), "Validation: score follows length", "4 preference",
           zh="得分与长度的相关",
           number=".2f"),
    Metric("kto_distance", ("kto/distance",), "KTO: distance to the reference", "4 preference",
           zh="KTO：与参考模型的距离",
           number=".3f"),
    Metric("tool_calls", ("tools/calls/mean",), "Tool calls per answer", "3 policy",
           zh="每个回答的工具调用",
           zero_steps=20, number=".2f",
           below="No tool was called in 20 steps: the model must know the form of a call before RL, so teach it with "
                 "SFT, and check that TOOL_FORMAT is the model's and that TOOLS_PATH has what the task needs."),
    Metric("tool_failures", ("tools/failures",), "Tool calls that failed", "3 policy",
           zh="失败的工具调用",
           high=0.5, number=".3f",
           above="Most calls fail: look for 'Error executing tool' in train.log, fix the tool in TOOLS_PATH, or raise "
                 "TOOL_TIMEOUT."),
    Metric("success", ("reward/success/mean",), "Episodes that succeeded", "1 reward",
           zh="成功的回合",
           better="higher", compared=True, number=".3f"),
    Metric("val_success", ("val-aux/*/success/mean@*",), "Validation: episodes that succeeded", "1 reward",
           zh="验证：成功的回合",
           better="higher", validates="success", number=".3f"),
    Metric("episode_turns", ("reward/turns/mean",), "Turns of an episode", "6 length",
           zh="每回合的轮数",
           number=".2f"),
    Metric("episode_failures", ("reward/env_failure/mean",), "Episodes that the environment failed", "1 reward",
           zh="环境出错的回合",
           high=0.02, idle=0.0, number=".3f",
           above="They count 0 and are not trained on; above half of a step the run ends. Look for 'An episode failed' "
                 "in train.log, fix the environment in ENV_PATH, or raise ENV_TIMEOUT."),
    Metric("val_episode_failures", ("val-aux/*/env_failure/mean@*",), "Validation: episodes that failed", "",
           zh="验证：环境出错的回合",
           high=0.02, number=".3f",
           above="They count 0, so the validation score is too low: look for 'An episode failed' in train.log."),
    Metric("turns", ("num_turns/mean",), "Turns per answer", "",
           zh="轮数",
           number=".2f"),
    Metric("grad_norm", ("actor/grad_norm", "train/grad_norm", "grad_norm"), "Gradient norm", "5 optimisation",
           zh="梯度范数",
           compared=True,
           zero_steps=PATIENCE, finite=True,
           below="The weights do not move: check that LEARNING_RATE is above 0, that the data has tokens to train on, "
                 "and for RL that answers to one question differ in reward (ROLLOUT_N above 1)."),
    Metric("critic_grad_norm", ("critic/grad_norm",), "Gradient norm (critic)", "5 optimisation",
           zh="价值网络梯度范数",
           finite=True),
    Metric("learning_rate", ("actor/lr", "train/lr", "learning_rate"), "Learning rate", "5 optimisation",
           zh="学习率",
           number=".2g"),
    Metric("response_length", ("response_length/mean", "response_length"), "Answer length", "6 length",
           zh="回答长度",
           compared=True,
           unit="tokens", number=".1f"),
    Metric("response_length_max", ("response_length/max",), "Longest answer", "",
           zh="最长回答",
           unit="tokens", number=".0f"),
    Metric("response_clip_ratio", ("response_length/clip_ratio", "response_clip_ratio"), "Answers at full length",
           "6 length",
           zh="达到最大长度的回答",
           high=0.5, number=".3f",
           above="Most answers are cut before they end, so their reward is mostly noise: raise MAX_RESPONSE_LENGTH, "
                 "or reward shorter answers in REWARD_FUNC_PATH."),
    Metric("api_failed", ("reward/api_failed/mean",), "API: answers without a score", "8 reward API",
           zh="没有得分的回答（奖励 API）",
           high=0.05,
           number=".3f",
           above="The reward API often gives no score, and default_score counts instead: .venv/bin/python -m "
                 "ppo.api_reward try shows what it says; lower its concurrency, or raise timeout_s and attempts."),
    Metric("api_latency", ("reward/api_latency/mean",), "API: time of a call", "8 reward API",
           zh="奖励 API 延迟",
           unit="s", number=".2f"),
    Metric("api_cached", ("reward/api_cached/mean",), "API: found in the cache", "8 reward API",
           zh="缓存中的得分（奖励 API）",
           number=".3f"),
    Metric("api_retries", ("reward/api_retries/mean",), "API: retries per answer", "8 reward API",
           zh="重试次数（奖励 API）",
           number=".3f"),
    Metric("api_cost", ("reward/api_cost/mean",), "API: cost of an answer", "8 reward API",
           zh="费用（奖励 API）"),
    # verl's model versions are steps: weights reach the engine once a step.
    Metric("staleness", ("training/off_policy/trajectory_staleness/mean",), "Age of the answers", "9 asynchrony",
           zh="回答的陈旧度",
           unit="steps", idle=0.0, high=2.0, number=".2f",
           above="Answers come from a model that is more than two steps older than the one they train: give more "
                 "GPUs to ROLLOUT_GPUS, lower MAX_OFF_POLICY_THRESHOLD, or weigh them with "
                 "algorithm.rollout_correction.rollout_is=token."),
    Metric("answer_span", ("training/off_policy/trajectory_spans/mean",), "Model versions that wrote an answer",
           "9 asynchrony",
           zh="一个回答跨越的模型版本数",
           idle=1.0, number=".2f"),
    Metric("dropped_stale", ("training/off_policy/evicted_samples",), "Prompts dropped as too old", "9 asynchrony",
           zh="因过旧而丢弃的提示",
           high=0, number=".0f",
           above="Answers are written and thrown away step after step: raise MAX_OFF_POLICY_THRESHOLD, set "
                 "MAX_OFF_POLICY_STRATEGY=wait, or lower MAX_RESPONSE_LENGTH."),
    Metric("rollout_gap", ("training/rollout_probs_diff_mean",), "Rollout / trainer difference of probabilities", "",
           zh="采样与训练的概率差",
           high=0.03, number=".3f",
           above="The policy has moved on from the weights that wrote the answers: lower LEARNING_RATE or "
                 "MAX_OFF_POLICY_THRESHOLD, raise MINI_BATCH_SIZE towards BATCH_SIZE (fewer updates per step), or "
                 "weigh the answers with algorithm.rollout_correction.rollout_is=token."),
    Metric("step_tokens", ("perf/total_num_tokens", "train/global_tokens"), "Tokens per step", "",
           zh="每步 token 数",
           number=".0f"),
    Metric("step_time", ("perf/time_per_step", "timing_s/step", "step_time"), "Step time", "7 speed",
           zh="每步用时",
           compared=True,
           unit="s",
           number=".1f"),
    Metric("tokens_per_second", ("perf/throughput", "tokens_per_second"), "Throughput", "7 speed",
           zh="吞吐量",
           unit="tokens/s/GPU", number=".0f"),
)
# fmt: on
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
# What a run is judged by, the most telling first: validation before training.
HEADLINES = tuple(sorted((metric for metric in METRICS if metric.headline), key=lambda metric: metric.headline))
VALIDATION_OF = {metric.validates: metric.name for metric in METRICS if metric.validates}  # training -> its validation

# A warning on the left explains those on the right, which are then not shown.
_EXPLAINS = {
    "reward_mean": ("reward_std", "reward_group_std", "reward_std_bound", "dead_groups", "advantage_max", "grad_norm"),
    "reward_std": ("reward_group_std", "dead_groups", "advantage_max", "grad_norm"),
    "reward_group_std": ("dead_groups", "advantage_max", "grad_norm"),
    "reward_std_bound": ("advantage_max", "grad_norm"),
    "advantage_max": ("grad_norm",),
}
_BLOWN_UP = "training has blown up: go back to the last checkpoint, lower LEARNING_RATE, and look for bad TRAIN_DATA."
_NO_REWARD = "REWARD_FUNC_PATH returned NaN, or every answer was empty: test the reward function on real rows."


def friendly(data: dict) -> dict[str, float]:
    """Renames one step of trainer metrics.

    Args:
        data: Trainer keys to values, as in the "data" of a metrics.jsonl line. None counts as nan; values that are
            no numbers are ignored.

    Returns:
        The kit's names to values, in the table's order, only those that the trainer reported.
    """
    numbers = {key: value for key, raw in data.items() if (value := _number(raw)) is not None}
    result = {name: sum(numbers[key] for key in keys) / len(keys) for name, keys in _meant(tuple(numbers))}
    spread = _reward_spread(result)
    if "reward_std" in result or spread is None:
        return result
    result["reward_std_bound"] = spread
    return {metric.name: result[metric.name] for metric in METRICS if metric.name in result}


def check_health(history: list[dict], max_response_length: float | None = None) -> list[HealthWarning]:
    """Says what is wrong now.

    A limit must be broken by the last values of a metric, three for most; NaN counts at once. Steps
    that lack a metric are skipped. Call it after each step and show a warning once per name.

    Args:
        history: Results of `friendly` for consecutive steps, oldest first. Twenty or more make it most exact.
        max_response_length: MAX_RESPONSE_LENGTH of the run in tokens, to tell cut answers from short equal ones.

    Returns:
        At most one warning per metric, in the table's order; empty when all is well.
    """
    warnings: dict[str, HealthWarning] = {}
    for metric in METRICS:
        values = [step[metric.name] for step in history if metric.name in step]
        if not values:
            continue
        advice, moved = _advice(metric, values), _trend(metric.name, history)
        if moved:
            warnings[metric.name] = HealthWarning(metric.name, values[-1], moved, trend=True)
        elif advice and not _excused(metric.name, values[-1], history, max_response_length):
            warnings[metric.name] = HealthWarning(metric.name, values[-1], advice)
    hidden = {name for cause, effects in _EXPLAINS.items() if cause in warnings for name in effects}
    return [w for w in warnings.values() if w.name not in hidden or not math.isfinite(w.value)]


def tells(name: str, values: Collection[float]) -> bool:
    """Whether a curve of the table deserves a panel: not when it stays at the metric's idle value."""
    idle = BY_NAME[name].idle
    return idle is None or any(value != idle for value in values)


def _number(raw: object) -> float | None:
    if type(raw) is float:
        return raw
    if raw is None:
        return math.nan
    return float(raw) if isinstance(raw, Real) and not isinstance(raw, bool) else None


@lru_cache(maxsize=64)  # the steps of a run have the same keys, and patterns take their time
def _meant(keys: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each name of the table that these keys have, with the keys of its first source that is there."""
    known = dict.fromkeys(keys)
    found = (
        (metric.name, next(filter(None, (keys_of(one, known) for one in metric.sources)), ())) for metric in METRICS
    )
    return tuple((name, used) for name, used in found if used)


def keys_of(source: str, keys: Collection[str]) -> tuple[str, ...]:
    """Of some trainer keys those that a source of the table means."""
    if "*" not in source:
        return (source,) if source in keys else ()
    return tuple(key for key in keys if fnmatch.fnmatchcase(key, source))


def _reward_spread(result: dict[str, float]) -> float | None:
    if not {"reward_mean", "reward_max", "reward_min"} <= result.keys():
        return None
    mean, highest, lowest = result["reward_mean"], result["reward_max"], result["reward_min"]
    product = (highest - mean) * (mean - lowest)
    return 0.0 if product < 0 else math.sqrt(product)  # below 0 only by float error; nan stays nan


def _advice(metric: Metric, values: list[float]) -> str:
    """Returns the advice for a broken rule, "" when none is broken."""
    if not math.isfinite(values[-1]):
        return (_NO_REWARD if metric.name == "reward_mean" else _BLOWN_UP) if metric.finite else ""
    last = values[-metric.patience :]
    if metric.zero_steps and len(values) >= metric.zero_steps and not any(values[-metric.zero_steps :]):
        return metric.below
    if len(last) == metric.patience and metric.low is not None and all(value <= metric.low for value in last):
        return metric.below
    if len(last) == metric.patience and metric.high is not None and all(value > metric.high for value in last):
        return metric.above
    return metric.above if metric.rising and _rises(values) else ""


def _trend(name: str, history: list[dict]) -> str:
    """The advice of a rule of movement; of the last step only, and not where low entropy is certainty."""
    if name not in TRENDS or not math.isfinite(history[-1].get(name, math.nan)):
        return ""
    return "" if name == "entropy" and _solved(history) else TRENDS[name](history)


def _rises(values: list[float], share: float = 0.01) -> bool:
    """True when the last three changes all went up, together by more than `share` of the start."""
    tail = values[-PATIENCE - 1 :]
    up = len(tail) == PATIENCE + 1 and all(b > a for a, b in zip(tail, tail[1:], strict=False))
    return up and tail[-1] - tail[0] > share * abs(tail[0])


def _excused(name: str, value: float, history: list[dict], max_response_length: float | None) -> bool:
    """False alarms: a limit is broken for a good reason."""
    excuse: Callable[[], bool] | None = {
        "response_clip_ratio": lambda: not _at_length_limit(history, max_response_length),
        "entropy": lambda: _solved(history),
        "dead_groups": lambda: _solved(history),
        "advantage_max": lambda: _solved(history),
        "kl_divergence": lambda: value < 1.0 and _reward_rises(history),
        "rollout_corr": lambda: _is_stale(history),
        "rollout_gap": lambda: not _is_stale(history),
    }.get(name)
    return math.isfinite(value) and excuse is not None and excuse()


def _at_length_limit(history: list[dict], limit: float | None) -> bool:
    """Longest answers reach the limit; without one, they stop at the same length, the longest ever seen."""
    longest = [step["response_length_max"] for step in history if "response_length_max" in step]
    if not longest:
        return True
    if limit is not None:
        return min(longest[-PATIENCE:]) >= limit
    return min(longest[-PATIENCE:]) == max(longest)


def _solved(history: list[dict]) -> bool:
    """Nearly all answers get the best reward: low entropy is then certainty, not collapse."""
    step = next((step for step in reversed(history) if "reward_mean" in step), {})
    best, mean = step.get("reward_max", 0.0), step.get("reward_mean", 0.0)
    return best > 0 and mean >= 0.9 * best


def _is_stale(history: list[dict]) -> bool:
    """Some answers of the last steps are of older weights, so that engine and trainer have to disagree about them."""
    ages = [step["staleness"] for step in history if "staleness" in step]
    return any(age > 0 for age in ages[-PATIENCE:])


def _reward_rises(history: list[dict]) -> bool:
    """The reward of the last three steps beats the three before by 5 percent: it pays for the distance."""
    rewards = [step["reward_mean"] for step in history if "reward_mean" in step]
    now, before = rewards[-PATIENCE:], rewards[-2 * PATIENCE : -PATIENCE]
    return len(before) == PATIENCE and sum(now) - sum(before) > 0.05 * max(abs(sum(before)), 1e-9)
