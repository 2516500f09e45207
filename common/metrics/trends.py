"""Health rules that look at how a metric moves, and at two metrics together; `names.check_health` asks them.

A rule gets the history and returns its advice, "" while all is well. What they find is in the public logs of many
runs: a policy that stops to explore though nothing is gained, answers that only get longer, a form that is learned in
place of the task, an update that throws the policy off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

History = Sequence[Mapping[str, float]]

STEPS = 12  # that a trend needs
ENDS = 3  # steps at each end of the window, whose means are compared
ENTROPY_LEFT, ENTROPY_BELOW = 0.35, 0.4  # share of the entropy at the window's start; nats
LONGER = 1.5  # times
GAIN = 0.1  # of the reward at the window's start: less is no gain
FORM, RIGHT = 0.95, 0.2  # shares of answers
SPIKE, SPIKE_ABOVE = 3.0, 0.05  # times the largest of the values before, and at least
USUAL = 10  # values before


def ends(history: History, name: str) -> tuple[float, float] | None:
    """Means of the first and the last values of a metric in the window, None where there are too few."""
    values = [step[name] for step in history if name in step and math.isfinite(step[name])]
    return (fmean(values[:ENDS]), fmean(values[-ENDS:])) if len(values) >= STEPS else None


def _gains(history: History) -> bool:
    found = ends(history, "reward_mean")
    return found is not None and found[1] - found[0] > GAIN * max(abs(found[0]), 1e-9)


def entropy_falls(history: History) -> str:
    """Most of the entropy is gone, and the reward has not risen for it."""
    found = ends(history, "entropy")
    fallen = found is not None and found[1] < ENTROPY_LEFT * found[0] and found[1] < ENTROPY_BELOW
    if not fallen or "reward_mean" not in history[-1] or _gains(history):
        return ""
    return (
        "About two thirds of it are gone and the reward has not risen for it: lower LEARNING_RATE, raise "
        "CLIP_RATIO_HIGH or KL_LOSS_COEF, and look at whether REWARD_FUNC_PATH tells good answers from bad ones."
    )


def answers_grow(history: History) -> str:
    """Answers get much longer, and no better."""
    found = ends(history, "response_length")
    if found is None or found[1] < LONGER * found[0] or "reward_mean" not in history[-1] or _gains(history):
        return ""
    return (
        "Answers are half as long again as before and no better: read some, take what pays for length out of "
        "REWARD_FUNC_PATH or subtract for it, or use VARIANT=dr_grpo, whose loss does not favour long wrong answers."
    )


def form_before_task(history: History) -> str:
    """The form is learned, the task is not."""
    form, right = ends(history, "format_reward"), ends(history, "accuracy_reward")
    if form is None or right is None or form[1] < FORM or right[1] > RIGHT or right[1] - right[0] > GAIN:
        return ""
    return (
        "Nearly all answers have the form and few are right, so the form's part of the reward teaches nothing more: "
        "lower its share in REWARD_FUNC_PATH or give it only to right answers, and use easier data or train SFT first."
    )


def kl_jumps(history: History) -> str:
    """The distance to the reference is several times the largest of the steps before."""
    values = [step["kl_divergence"] for step in history if math.isfinite(step.get("kl_divergence", math.nan))]
    if len(values) <= USUAL:
        return ""
    if values[-1] <= max(SPIKE_ABOVE, SPIKE * max(values[-USUAL - 1 : -1])):
        return ""
    return (
        "It has jumped to several times what it was: an update has thrown the policy off. Go back to the checkpoint "
        "before it, lower LEARNING_RATE or MAX_GRAD_NORM, and look at the answers of that step for broken rewards."
    )


JUMPING = "kl_divergence"  # a rule of one step; the others hold for a while
TRENDS: dict[str, Callable[[History], str]] = {
    "entropy": entropy_falls,
    "response_length": answers_grow,
    "accuracy_reward": form_before_task,
    "kl_divergence": kl_jumps,
}
