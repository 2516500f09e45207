"""95% intervals of a share and of a mean. Sources are named at each function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def wilson_interval(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion. Source: Wilson 1927, JASA 22, equation 4; Brown, Cai and DasGupta 2001.

    Args:
        right: Successes.
        total: Trials, at least 1.
        confidence: Share of such intervals that hold the true proportion.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a mean, by Student's t; with several answers to a prompt give one mean a prompt.

    Source: Miller 2024, Adding Error Bars to Evals, arXiv 2411.00640 (clusters are prompts).
    """
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return mean, mean
    half = student_t(confidence, count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean - half, mean + half


def student_t(confidence: float, degrees: int) -> float:
    """Two-sided quantile of Student's t. Source: Abramowitz and Stegun 26.7.5, exact for 1 and 2 degrees."""
    if degrees == 1:
        return math.tan(math.pi * confidence / 2)
    if degrees == 2:
        tail = 1 - confidence
        return math.sqrt(2 / (tail * (2 - tail)) - 2)
    z, v = NormalDist().inv_cdf((1 + confidence) / 2), degrees
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v ** (power + 1) for power, term in enumerate(terms))
