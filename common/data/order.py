"""The order in which rows are trained on (DATA_ORDER), by what ``data_utils difficulty`` has measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MARKS = {"difficulty": "difficulty", "weighted": "weight"}  # order -> field of extra_info


def order_of(extras: Sequence[Any], order: str, seed: int | None) -> list[int]:
    """Numbers of the rows in the order in which they are trained on.

    Args:
        extras: ``extra_info`` of each row.
        order: ``difficulty``: the easiest first, equal ones as they stand. ``weighted``: as many as there are rows,
            drawn with replacement by weight; the same seed draws the same.
        seed: Of the draw.

    Raises:
        ValueError: If a row lacks what the order goes by, or all weights are 0.
    """
    mark = MARKS[order]
    values = [extra.get(mark) if isinstance(extra, dict) else None for extra in extras]
    if missing := values.count(None):
        raise ValueError(
            f"DATA_ORDER={order}: {missing:,} of {len(values):,} rows have no extra_info.{mark}; make them with "
            "python -m common.data_utils difficulty, or set DATA_ORDER=shuffled"
        )
    if order == "difficulty":
        return sorted(range(len(values)), key=values.__getitem__)
    import numpy as np

    total = sum(values)
    if min(values) < 0 or not total > 0:
        raise ValueError(f"DATA_ORDER={order}: extra_info.weight must be 0 or more, and above 0 in some row")
    return np.random.default_rng(seed).choice(len(values), len(values), p=np.array(values) / total).tolist()
