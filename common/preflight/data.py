"""Data files: found, read, their columns and rows checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE_ROWS = 2000  # rows that are looked at one by one; the number of rows is always exact
ROLES = ("system", "user", "assistant", "tool")
CONVERT = "python -m common.data_utils convert makes it from any common form"


@dataclass(frozen=True)
class DataFile:
    """One data file.

    Args:
        path: Where it is.
        rows: How many it has.
        sample: Its first rows, at most ``SAMPLE_ROWS``.
    """

    path: Path
    rows: int
    sample: list[dict[str, Any]]


def read_file(path: Path, suffixes: tuple[str, ...]) -> DataFile:
    """Read the number of rows and the first rows of a file.

    Args:
        path: A parquet, jsonl or json file.
        suffixes: Those that the trainer reads.

    Raises:
        ValueError: If it cannot be read, is empty, or is of another kind, with what to do.
    """
    if path.suffix not in suffixes:
        raise ValueError(f"{path}: this trainer reads {' or '.join(suffixes)}; {CONVERT}")
    try:
        rows, sample = _read_parquet(path) if path.suffix == ".parquet" else _read_json(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors or OSErrors
        raise ValueError(f"{path}: cannot be read ({error})") from error
    if not rows:
        raise ValueError(f"{path}: has no rows")
    return DataFile(path, rows, sample)


def _read_parquet(path: Path) -> tuple[int, list[dict[str, Any]]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=SAMPLE_ROWS), None)
        return file.metadata.num_rows, batch.to_pylist() if batch else []


def _read_json(path: Path) -> tuple[int, list[dict[str, Any]]]:
    if path.suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ValueError("expected a list of rows")
        return len(rows), rows[:SAMPLE_ROWS]
    count, sample = 0, []
    for number, line in enumerate(_lines(path), 1):
        count += 1
        if count <= SAMPLE_ROWS:
            try:
                sample.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error}") from error
    return count, sample


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as stream:
        yield from (line for line in stream if line.strip())


def check_rl_row(row: dict[str, Any]) -> str | None:
    """Return what is wrong with a row of prompt data for verl's RL trainers, or None."""
    if not isinstance(row.get("data_source"), str):
        return "column data_source must hold a word that names the data set"
    problem = check_messages(row.get("prompt"), "prompt")
    if problem:
        return problem
    if row["prompt"][-1].get("role") == "assistant":
        return "prompt ends with the assistant; the model is to answer, so end it with the user"
    reward_model = row.get("reward_model")
    if not isinstance(reward_model, dict) or "ground_truth" not in reward_model:
        return "column reward_model must hold {style, ground_truth}"
    return None


def check_sft_row(row: dict[str, Any]) -> str | None:
    """Return what is wrong with a row of conversations for verl's SFT trainer, or None."""
    problem = check_messages(row.get("messages"), "messages")
    if problem:
        return problem
    if all(message.get("role") != "assistant" for message in row["messages"]):
        return "messages has no assistant turn, so there is nothing to learn"
    return None


def check_messages(messages: Any, column: str) -> str | None:
    """Return what is wrong with a list of messages, or None."""
    if messages is None:
        return f"column {column} is missing"
    if not isinstance(messages, list) or not messages:
        return f"column {column} must hold a list of {{role, content}}, got {type(messages).__name__}"
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, dict) else message
            return f"column {column} has the role {role!r}; roles are {', '.join(ROLES)}"
        if message.get("content") is None and not message.get("tool_calls"):
            return f"column {column} has a message without content"
    return None
