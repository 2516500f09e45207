"""pass@k, majority votes and paired tests. Sources are named at each function."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

FLIPS = 10_000  # random sign flips of the paired test
CHUNK = 1_000_000  # signs drawn at once


def pass_at_k(total: int, right: int, k: int) -> float:
    """Chance that one of k answers drawn from ``total`` is right. Source: Chen et al. 2021, arXiv 2107.03374."""
    return 1.0 - math.comb(total - right, k) / math.comb(total, k)


def ks_of(n: int) -> list[int]:
    """The k that are shown for n answers: 1, 2, 4, ... and n."""
    return sorted({2**power for power in range(n.bit_length()) if 2**power <= n} | {n})


def majority(votes: Sequence[Hashable], values: Sequence[float]) -> float:
    """Value of the answer that most samples agree on; of several such, the first.

    Source: Wang et al. 2022, self-consistency, arXiv 2203.11171.

    Args:
        votes: Final answer of each sample.
        values: Its value.
    """
    winner = Counter(votes).most_common(1)[0][0]
    return values[list(votes).index(winner)]


def mcnemar_exact(better: int, worse: int) -> float:
    """Two-sided p value of McNemar's exact test. Source: McNemar 1947, Psychometrika 12; a binomial test at 1/2.

    Args:
        better: Pairs that only the first got right.
        worse: Pairs that only the second got right.
    """
    total, fewer = better + worse, min(better, worse)
    if not total:
        return 1.0
    log_tail = [math.lgamma(total + 1) - math.lgamma(i + 1) - math.lgamma(total - i + 1) for i in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(math.exp(term - total * math.log(2)) for term in log_tail))


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p value of a paired permutation test of the mean difference; all flips up to 13 pairs, then random.

    Source: Fisher 1935, The Design of Experiments, section 21; Phipson and Smyth 2010 for the added one.
    """
    values = np.asarray([value for value in differences if value], dtype=np.float64)
    if not len(values):
        return 1.0
    seen = abs(values.sum()) * (1 - 1e-12)
    if len(values) <= 13:
        bits = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        return float(np.mean(np.abs((bits * 2 - 1) @ values) >= seen))
    generator = np.random.default_rng(seed)
    extreme, left, rows = 0, FLIPS, max(1, CHUNK // len(values))
    while left:
        signs = generator.integers(0, 2, (min(rows, left), len(values)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ values) >= seen).sum())
        left -= len(signs)
    return (1 + extreme) / (1 + FLIPS)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for being several. Source: Holm 1979, Scandinavian Journal of Statistics 6."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
