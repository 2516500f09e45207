"""The files of a run sorted into prompts for the RL stages and pairs for the preference stages."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.data.keys import prompt_key
from common.data.readers.records import read_records
from common.data.rows import loaded, loaded_tools, stored_row
from common.data.self_play import is_pair, is_prompt
from common.preflight.data_split import choose

PROMPT_COLUMNS = ("data_source", "prompt", "ability", "reward_model", "extra_info", "agent_name")
PAIR_COLUMNS = ("prompt", "chosen", "rejected", "tools")
ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
HELD_OUT = 16  # one pair in so many is kept for validation where VAL_DATA has none


def rows_of(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Rows of some files, as they were before parquet."""
    for file in files:
        for record in read_records(file):
            yield {name: loaded(value) for name, value in record.row.items()}


def prompts_of(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Rows that the model answers itself."""
    return [columns(row, PROMPT_COLUMNS) for row in rows_of(files) if is_prompt(row)]


def pairs_of(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Rows with a better and a worse answer; texts become messages, so that all have one shape."""
    pairs = []
    for row in rows_of(files):
        if is_pair(row):
            tools = loaded_tools(row.get("tools")) if row.get("tools") else None
            row |= {name: messages(row[name], role) for name, role in ROLES.items()} | {"tools": tools}
            pairs.append(columns(row, PAIR_COLUMNS))
    return pairs


def messages(value: Any, role: str) -> list[dict[str, Any]]:
    """A text as one message; messages as they are."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def columns(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The columns of a row that a stage reads, those without a value left out."""
    return {name: row[name] for name in names if row.get(name) is not None}


def held_out(pairs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Pairs to train on, and a sixteenth for validation (one at least); those of one prompt stay together."""
    keys = [prompt_key(pair["prompt"]) for pair in pairs]
    chosen = choose(Counter(keys), max(1, -(-len(pairs) // HELD_OUT)), len(pairs))
    if not chosen:  # one prompt only
        return pairs, pairs
    sides = [[pair for pair, key in zip(pairs, keys, strict=True) if (key in chosen) == side] for side in (False, True)]
    return sides[0], sides[1]


def write(rows: list[dict[str, Any]], path: Path) -> Path:
    """Write rows as parquet: under a temporary name, then renamed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    stored = [stored_row(row) for row in rows]
    table = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in stored])
    temporary = path.with_name(f".{path.name}.partial")
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, path)
    return path
