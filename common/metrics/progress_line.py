"""One line of progress per training step, for RL and supervised runs alike.

Step 12/24 | reward 0.710 | policy loss 0.0123 | KL 0.0021 | entropy 0.310 | lr 1e-04 | 2.4 s | ETA 0:29
"""

from __future__ import annotations

import math

from common.metrics.names import BY_NAME

# (metric name, word on the line, number format); only those that a step has are shown.
PARTS: tuple[tuple[str, str, str], ...] = (
    ("reward_mean", "reward", ".3f"),
    ("reward_errors", "reward errors", ".0f"),
    ("loss", "loss", ".4f"),
    ("policy_loss", "policy loss", ".4f"),
    ("value_loss", "value loss", ".4f"),
    ("reward_accuracy", "accuracy", ".3f"),
    ("reward_margin", "margin", ".3f"),
    ("kl_divergence", "KL", ".4f"),
    ("entropy", "entropy", ".3f"),
    ("val_loss", "val loss", ".4f"),
    ("val_score", "val score", ".3f"),
    ("grad_norm", "grad norm", ".2f"),
    ("learning_rate", "lr", ".1e"),
)
_RL_HIDES = {"grad_norm"}  # an RL line is long enough without it


def step_line(
    step: int,
    total_steps: int | None,
    friendly: dict[str, float],
    step_seconds: float | None = None,
    eta_seconds: float | None = None,
    markup: bool = False,
) -> str:
    """Writes the line for one step.

    Args:
        step: Number of the step just done.
        total_steps: Steps of the whole run, None when unknown.
        friendly: Result of `names.friendly` for the step.
        step_seconds: Duration of the step; without it `friendly["step_time"]` is used.
        eta_seconds: Time left, None when unknown.
        markup: Colour with rich markup; values outside their healthy range are yellow, NaN red.

    Returns:
        One line without a line break.
    """
    hidden = _RL_HIDES if "policy_loss" in friendly else set()
    head = f"Step {step}/{total_steps}" if total_steps else f"Step {step}"
    parts = [f"[bold]{head}[/bold]" if markup else head]
    for name, word, number in PARTS:
        if name in friendly and name not in hidden and (name != "reward_errors" or friendly[name]):
            text = f"{word} {_number(friendly[name], number)}"
            parts.append(_coloured(name, friendly[name], text) if markup else text)
    seconds = friendly.get("step_time") if step_seconds is None else step_seconds
    if seconds is not None:
        parts.append(f"{seconds:.1f} s")
    if eta_seconds is not None:
        parts.append(f"ETA {format_duration(eta_seconds)}")
    return " | ".join(parts)


def format_duration(seconds: float) -> str:
    """Formats a duration: 29 -> 0:29, 754 -> 12:34, 3723 -> 1:02:03, 183845 -> 2d 3:04:05; "?" when unknown."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def _number(value: float, number: str) -> str:
    """Formats a value; one that would be rounded to 0 keeps two digits, so 0.000025 is 2.5e-05."""
    rounded_away = value and math.isfinite(value) and float(format(value, number)) == 0
    return format(value, ".1e" if rounded_away else number).replace(".0e", "e")


def _coloured(name: str, value: float, text: str) -> str:
    metric = BY_NAME[name]
    if not math.isfinite(value):
        return f"[red]{text}[/red]"
    too_low = metric.low is not None and value <= metric.low
    too_high = metric.high is not None and value > metric.high
    return f"[yellow]{text}[/yellow]" if too_low or too_high else text
