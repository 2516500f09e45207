"""What is going wrong in a run, since when, why, and which knob to turn.

These are the rules of common/metrics/names.py over all steps of a run, and a few that need more than one metric.

`check_health` judges the last steps of a history. Here numpy finds the stretches in which a limit may be broken, and
`check_health` is asked at their ends only, so that a run of 100,000 steps is judged in a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.metrics.names import BY_NAME, METRICS, PATIENCE, Metric, check_health
from common.metrics.trends import JUMPING, SPIKE, SPIKE_ABOVE, STEPS, TRENDS, USUAL
from monitor.columns import Columns
from monitor.samples import read_step, share_of_flat_groups, steps_of

WINDOW = 40  # steps that check_health looks back on, as the terminal does
MAX_STRETCHES = 8  # of one metric, the latest
_PROBES = 10  # steps of one stretch at which check_health is asked
FLAT_STEPS = 50
SLOW = 2.0  # times the median step time
FLAT_GROUPS = 0.9  # share of groups with one and the same score


@dataclass(frozen=True)
class Finding:
    """Something that is, or was, wrong.

    Args:
        name: The metric, or the name of a rule of this file.
        first: First step of the stretch.
        last: Its last step.
        now: It still holds at the newest step.
        value: The metric's value at `last`.
        advice: From the table, in English; "" where texts.yaml has the text (`health_<name>`).
        side: "below", "above", "nan" or "trend" for the table's rules, "" for this file's.
    """

    name: str
    first: int
    last: int
    now: bool
    value: float
    advice: str = ""
    side: str = ""


def find(columns: Columns, max_response_length: float | None, rollouts: Path | None) -> list[Finding]:
    """Judges a run.

    Args:
        columns: Its numbers.
        max_response_length: MAX_RESPONSE_LENGTH in tokens, None when unknown.
        rollouts: Its folder of samples, None when it has none.

    Returns:
        What is wrong now first, then what was, the latest first.
    """
    history = _History(columns, max_response_length)
    found = [finding for metric in METRICS for finding in _judge(metric, history)]
    own = (_flat_reward(columns), _slow_steps(columns), _flat_groups(rollouts))
    found += [finding for finding in own if finding]
    return sorted(found, key=lambda one: (not one.now, -one.last))


class _History:
    """All metrics of the table side by side, a row per step, from which windows are cut."""

    def __init__(self, columns: Columns, limit: float | None):
        self.limit = limit
        self.series = {name: columns.series(name) for name in columns.table_names()}
        parts = [steps for steps, _ in self.series.values()]
        self.steps = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
        self._asked: dict[int, dict[str, Any]] = {}

    def warnings(self, step: int) -> dict[str, Any]:
        """What `check_health` says at a step, by metric."""
        if step not in self._asked:
            end = int(np.searchsorted(self.steps, step, side="right"))
            window = self.steps[max(0, end - WINDOW) : end]
            rows: dict[int, dict[str, float]] = {int(one): {} for one in window}
            for name, (steps, values) in self.series.items():
                start, stop = np.searchsorted(steps, [window[0], window[-1] + 1])
                for one, value in zip(steps[start:stop].tolist(), values[start:stop].tolist(), strict=True):
                    rows[one][name] = value
            self._asked[step] = {one.name: one for one in check_health(list(rows.values()), self.limit)}
        return self._asked[step]


def longest_answer(knobs: dict[str, Any]) -> float | None:
    """``MAX_RESPONSE_LENGTH`` of a run in tokens, None where it says none."""
    limit = str(knobs.get("MAX_RESPONSE_LENGTH", ""))
    return float(limit) if limit.isascii() and limit.isdecimal() and len(limit) < 10 else None


def _judge(metric: Metric, history: _History) -> list[Finding]:
    steps, values = history.series.get(metric.name, (np.empty(0, np.int64), np.empty(0)))
    found = []
    jumps = [(place, place) for place in _jumps(metric, values)]
    for start, end in [*_stretches(_suspects(metric, values))[-MAX_STRETCHES:], *jumps[-MAX_STRETCHES:]]:
        probes = np.unique(np.linspace(start, end, min(_PROBES, end - start + 1)).astype(int))
        warned = [(place, one) for place in probes if (one := history.warnings(int(steps[place])).get(metric.name))]
        if warned:
            (first, _), (last, warning) = warned[0], warned[-1]
            now = last == len(steps) - 1
            side = "trend" if warning.trend else _side(metric, warning.value)
            found.append(
                Finding(metric.name, int(steps[first]), int(steps[last]), now, warning.value, warning.advice, side)
            )
    return found


def _suspects(metric: Metric, values: np.ndarray) -> np.ndarray:
    """Where a rule of the table may be broken; never fewer places than `check_health` would warn at."""
    finite = np.isfinite(values)
    suspect = ~finite if metric.finite else np.zeros(len(values), bool)
    if metric.name in TRENDS and metric.name != JUMPING:
        suspect[STEPS - 1 :] = True
    if metric.zero_steps:
        suspect |= _for_last(values == 0, metric.zero_steps)
    if metric.low is not None:
        suspect |= _for_last(finite & (values <= metric.low), metric.patience)
    if metric.high is not None:
        suspect |= _for_last(finite & (values > metric.high), metric.patience)
    if metric.rising:
        suspect |= _for_last(np.diff(values, prepend=np.inf) > 0, PATIENCE)
    return suspect


def _jumps(metric: Metric, values: np.ndarray) -> list[int]:
    """Where `common.metrics.trends.kl_jumps` may warn: at a single step, which the probes of a stretch could miss."""
    if metric.name != JUMPING or len(values) <= USUAL:
        return []
    before = np.lib.stride_tricks.sliding_window_view(values, USUAL).max(axis=-1)[:-1]
    now = values[USUAL:]
    return (np.flatnonzero((now > SPIKE_ABOVE) & (now > SPIKE * before)) + USUAL).tolist()


def _for_last(broken: np.ndarray, count: int) -> np.ndarray:
    """True where the last `count` entries all were."""
    sums = np.cumsum(np.concatenate([[0], broken]))
    result = np.zeros(len(broken), bool)
    if len(broken) >= count:
        result[count - 1 :] = sums[count:] - sums[:-count] == count
    return result


def _stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) - 1).tolist(), strict=True))


def _side(metric: Metric, value: float) -> str:
    if not np.isfinite(value):
        return "nan"
    return "above" if metric.high is not None and value > metric.high or metric.rising else "below"


def _flat_reward(columns: Columns) -> Finding | None:
    """The reward's last 50 steps: their two halves differ by less than the noise, and there was more to gain."""
    steps, values = columns.series("reward_mean")
    _, best = columns.series("reward_max")
    steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
    if len(values) < FLAT_STEPS:
        return None
    tail = values[-FLAT_STEPS:]
    half = FLAT_STEPS // 2
    change = tail[half:].mean() - tail[:half].mean()
    noise = np.sqrt(tail[:half].var() / half + tail[half:].var() / half)
    top = np.nanmax(best[-FLAT_STEPS:]) if len(best) else np.inf
    solved = np.isfinite(top) and top > 0 and tail.mean() >= 0.9 * top
    if solved or not tail.any() or change > max(2 * noise, 0.01 * abs(tail.mean())):
        return None
    return Finding("flat_reward", int(steps[-FLAT_STEPS]), int(steps[-1]), True, float(tail.mean()))


def _slow_steps(columns: Columns) -> Finding | None:
    steps, values = columns.series("step_time")
    if len(values) < 10:
        return None
    usual = float(np.nanmedian(values))
    slow = _stretches(_for_last(values > SLOW * usual, PATIENCE))
    if not slow or usual <= 0:
        return None
    start, end = slow[-1]
    first = max(0, start - PATIENCE + 1)
    return Finding("slow_steps", int(steps[first]), int(steps[end]), end == len(values) - 1, float(values[end] / usual))


def _flat_groups(rollouts: Path | None) -> Finding | None:
    """Of the newest samples: nearly all groups agree on one score, though not all groups on the same."""
    newest = steps_of(rollouts)[-1:] if rollouts else []
    for step in newest:
        samples, _ = read_step(rollouts, step)
        share = share_of_flat_groups(samples)
        scores = {sample.score for sample in samples}
        if share is not None and share >= FLAT_GROUPS and len(scores) > 1:
            return Finding("flat_groups", step, step, True, share)
    return None


def healthy_range(name: str) -> str:
    """The range of a metric as text, "" when it has none."""
    metric = BY_NAME[name]
    if metric.low is not None and metric.high is not None:
        return f"{metric.low:g} – {metric.high:g}"
    return f"> {metric.low:g}" if metric.low is not None else f"≤ {metric.high:g}" if metric.high is not None else ""


def is_outside(name: str, value: float) -> bool:
    """Whether a value is out of the healthy range; a single one, or one with a good reason, is not a finding."""
    metric = BY_NAME[name]
    return (metric.low is not None and value <= metric.low) or (metric.high is not None and value > metric.high)
