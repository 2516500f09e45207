"""What every reader gives: one row and its place; and how columns are named."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Say = Callable[[str], None]  # takes one sentence about what reading a file guesses or leaves out
say_in_log: Say = logging.getLogger(__name__).warning


class Record(NamedTuple):
    """One row as it is in a file.

    Args:
        place: Line (JSONL, JSON, CSV) or row (parquet; xlsx as Excel counts) where it starts, from 1.
        row: Its columns, or None when it cannot be read.
        problem: Why it cannot be read, or None.
    """

    place: int
    row: dict[str, Any] | None
    problem: str | None = None


def numbered(position: int) -> str:
    """Name of a column that has none, by its position from 1."""
    return f"column{position}"


def repeated(names: Iterable[str]) -> list[str]:
    """Names that are there more than once; a file's first line may hold a million of them."""
    return sorted(name for name, times in Counter(names).items() if name and times > 1)


def count(number: int, word: str) -> str:
    """A number with its noun: ``1 value``, ``2 values``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
