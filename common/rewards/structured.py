"""Ground truths that are no answer but a description of one: objects, often written as JSON into a text."""

from __future__ import annotations

import json
from typing import Any

from common.rewards.result import unusable

LONGEST = 200_000  # characters of an answer that is looked at


def described(reward: str, truth: Any, wanted: str) -> Any:
    """Returns the object or list of a ground truth, from JSON where it is a text.

    Args:
        reward: Name of the reward, for the message.
        truth: Column `reward_model.ground_truth` of the row.
        wanted: What it must be, for the message.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(truth, str):
        try:
            truth = json.loads(truth)
        except (ValueError, RecursionError) as error:
            raise unusable(reward, truth, wanted) from error
    if hasattr(truth, "tolist"):
        truth = truth.tolist()
    if not isinstance(truth, dict | list) or not truth:
        raise unusable(reward, truth, wanted)
    return truth


def kind_of(truth: Any) -> str | None:
    """Returns the reward that reads a ground truth which describes an answer, or None for one that is an answer."""
    if isinstance(truth, str):
        if not truth.lstrip().startswith(("{", "[")):
            return None
        try:
            truth = json.loads(truth)
        except (ValueError, RecursionError):
            return None
    first = truth[0] if isinstance(truth, list) and truth else truth
    keys = set(first) if isinstance(first, dict) else set()
    if keys & {"instruction_id_list", "instruction_id"} or (isinstance(truth, list) and ":" in str(first_id(first))):
        return "constraints"
    if isinstance(truth, list):
        return None
    if "query" in keys and keys & {"schema", "database"}:
        return "sql"
    if {"sources", "documents"} <= keys:
        return "citations"
    schema = first["schema"] if keys == {"schema", "value"} else first
    named = {"type", "properties", "$ref", "anyOf", "allOf", "oneOf", "enum", "const", "items"}
    return "json_schema" if isinstance(schema, dict) and named & set(schema) else None


def first_id(entry: Any) -> Any:
    """The `id` of an object, None of anything else."""
    return entry.get("id") if isinstance(entry, dict) else None


def last_block(text: str, languages: tuple[str, ...]) -> str:
    r"""Returns the content of the last closed ``` block of one of some languages, or of none; else the whole text.

    >>> last_block("So:\n```json\n{}\n```\nDone.", ("json",))
    '{}\n'
    """
    parts = text.split("```")
    for block in reversed(parts[1::2] if len(parts) % 2 else parts[1:-1:2]):
        head, _, body = block.partition("\n")
        if head.strip().lower() in ("", *languages):
            return body
    return text
