"""Rows of GSPO's self-play: prompts to answer, pairs to compare, or both in one."""

from __future__ import annotations

from typing import Any


def is_pair(row: dict[str, Any]) -> bool:
    """Whether a row has a better and a worse answer."""
    return bool(row.get("chosen")) and bool(row.get("rejected"))


def is_prompt(row: dict[str, Any]) -> bool:
    """Whether the model is to answer a row itself: as ``self_play`` says, else where it has no pair."""
    self_play = row.get("self_play")
    return not is_pair(row) if self_play is None else bool(self_play)


def neither(row: dict[str, Any]) -> str | None:
    """Return why a row is of no use, as ``field: reason``, or None."""
    if not row.get("prompt"):
        return "prompt: is missing; a row is a prompt to answer, or a prompt with chosen and rejected"
    for side, other in (("chosen", "rejected"), ("rejected", "chosen")):
        if row.get(side) and not row.get(other):
            return f"{other}: is missing next to {side}; a pair has both"
    if not is_pair(row) and not is_prompt(row):
        return "self_play: is false and there is no pair; a row is a prompt to answer, or a pair"
    return None
