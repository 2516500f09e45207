"""Pure functions on series: smoothing, thinning out for a screen, ranges that can be read, time for x."""

from __future__ import annotations

import numpy as np

from monitor.columns import Series

POINTS = 800  # of one line on the screen; a panel is rarely wider in pixels


def smooth(values: np.ndarray, weight: float) -> np.ndarray:
    """Exponential moving average, free of the start's bias, as TensorBoard and Weights & Biases draw it.

    Args:
        values: One value per step; NaN is skipped.
        weight: Of the past, from 0 (no smoothing) to below 1.
    """
    if weight <= 0 or len(values) < 2:
        return values
    import pandas

    finite = np.where(np.isfinite(values), values, np.nan)
    average = pandas.Series(finite).ewm(alpha=1 - weight, adjust=True, ignore_na=True).mean()
    return np.where(np.isfinite(values), average.to_numpy(), np.nan)


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> np.ndarray:
    """Indices of the points to draw: the lowest and the highest of each stretch, so that no spike is lost.

    Args:
        x: Ascending.
        y: Same length; NaN counts only where a stretch has nothing else.
        points: How many at most, about.
    """
    count = len(y)
    if count <= points:
        return np.arange(count)
    buckets = points // 2
    size = count // buckets
    whole = size * buckets
    table = y[:whole].reshape(buckets, size)
    start = np.arange(buckets) * size
    low = np.where(np.isfinite(table), table, np.inf).argmin(axis=1) + start
    high = np.where(np.isfinite(table), table, -np.inf).argmax(axis=1) + start
    rest = np.arange(whole, count, max(1, size // 2))
    return np.unique(np.concatenate([[0], low, high, rest, [count - 1]]))


def value_range(values: list[np.ndarray], clip: bool, log: bool) -> tuple[float, float] | None:
    """The y range that shows the values: wide enough for a flat line not to look wild, None without a finite value.

    Args:
        values: Everything drawn in one panel.
        clip: Leave out the outermost 2 percent on each side when they stretch the range.
        log: The axis is logarithmic; values at or below 0 cannot be shown. The range is returned as powers of ten.
    """
    everything = np.concatenate(values) if values else np.empty(0)
    finite = everything[np.isfinite(everything)]
    if log:
        finite = np.log10(finite[finite > 0])
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    if clip and len(finite) >= 20:
        inner_low, inner_high = (float(one) for one in np.percentile(finite, [2, 98]))
        if high - low > 1.5 * (inner_high - inner_low) > 0:
            low, high = inner_low, inner_high
    middle, size = (low + high) / 2, max(abs(low), abs(high))
    half = max((high - low) * 0.56, size * (0.02 if high - low > 1e-6 * size else 0.2))
    half = half if size > 3e-9 else 0.1
    half = max(half, 0.1) if log else half
    return middle - half, middle + half


def within(series: Series, first: float | None, last: float | None) -> Series:
    """The part of a series between two steps, both included."""
    steps, values = series
    keep = np.ones(len(steps), bool)
    if first is not None:
        keep &= steps >= first
    if last is not None:
        keep &= steps <= last
    return steps[keep], values[keep]


def hours(steps: np.ndarray, step_time: Series) -> np.ndarray | None:
    """Hours of training before the end of each step, from the seconds that each step took.

    Returns:
        Same length as `steps`; None when the run does not say how long a step takes.
    """
    known, seconds = step_time
    if not len(known):
        return None
    elapsed = np.cumsum(np.nan_to_num(seconds, nan=0.0, posinf=0.0, neginf=0.0)) / 3600
    return np.interp(steps, np.concatenate([[known[0] - 1], known]), np.concatenate([[0.0], elapsed]))
