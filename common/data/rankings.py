"""Two answers in separate columns and a column that says which is better: PKU-SafeRLHF, arena votes."""

from __future__ import annotations

from typing import Any

from common.data.messages import RowError

# The mark's column -> the columns of the two answers, and what the mark says of the first and of the second.
_RANKED: dict[str, tuple[tuple[str, str], tuple[str, ...], tuple[str, ...]]] = {
    "better_response_id": (("response_0", "response_1"), ("0",), ("1",)),
    "winner": (("response_a", "response_b"), ("model_a", "a", "response_a"), ("model_b", "b", "response_b")),
}
MARKS = tuple(_RANKED)


def as_pair(row: dict[str, Any]) -> dict[str, Any]:
    """The row with ``chosen`` and ``rejected`` instead of its two answers and the mark; any other row as it is.

    Raises:
        RowError: If the mark names neither answer, as for a tie.
    """
    for mark, (answers, *said) in _RANKED.items():
        if mark in row and all(answer in row for answer in answers):
            text = str(row[mark]).strip().lower().removesuffix(".0")
            if text not in said[0] + said[1]:
                names = " nor ".join(answers)
                raise RowError(f"{mark}: {row[mark]!r} names neither {names}; leave such rows out")
            first, second = answers if text in said[0] else answers[::-1]
            rest = {name: value for name, value in row.items() if name not in (*answers, mark)}
            return {**rest, "chosen": row[first], "rejected": row[second]}
    return row
