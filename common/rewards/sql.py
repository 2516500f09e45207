"""Questions to a database: the query of an answer runs on SQLite and must give what the right query gives."""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.answers.thought import behind_thought
from common.rewards.result import as_text, refuse, unusable
from common.rewards.structured import LONGEST, described, last_block

WANTED = '{"query": the right query, "schema": statements that make the tables} or {"query": ..., "database": FILE}'
READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
LONGEST_VALUE = 1_000_000  # bytes of a value or a query
CHECK_EVERY = 1000  # steps of SQLite between two looks at the clock


class QueryError(ValueError):
    """A query that does not run, or not in time."""


def sql(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    timeout_s: float = 2.0,
    max_rows: int = 10_000,
    **kwargs: Any,
) -> dict[str, float]:
    """Scores 1.0 when the query of an answer gives the rows of the right query (execution accuracy).

    Each answer gets a database of its own, and may only read: no other file, no setting, no change.

    Source: Yu et al. (Spider), arXiv 1809.08887, and Li et al. (BIRD), arXiv 2305.03111, execution accuracy; rows are
        compared with their number, and in their order where the right query orders them at its end.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer: the last ``` block that is SQL's or nobody's, else all behind the thought.
        ground_truth: An object or JSON: `query`, and `schema` (CREATE and INSERT statements) or `database` (an SQLite
            file, opened for reading only); `ordered` true or false says whether the order counts.
        extra_info: Column `extra_info` of the row. Unused.
        timeout_s: Seconds that a query may run.
        max_rows: Rows that an answer may give, or as many as the right query gives; more score 0.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score` and `acc`, 1.0 or 0.0, and `format`, 1.0 when the query runs.

    Raises:
        ValueError: If the ground truth has no query or tables, or its own query does not run.
    """
    if kwargs:
        refuse(kwargs, "sql", "it has timeout_s and max_rows")
    truth = described("sql", ground_truth, WANTED)
    if not isinstance(truth, dict) or not truth.get("query") or not (truth.get("schema") or truth.get("database")):
        raise unusable("sql", ground_truth, WANTED)
    tables = (str(truth.get("schema") or ""), str(truth.get("database") or ""))
    try:
        right = _right_rows(str(truth["query"]), *tables)
    except QueryError as error:
        raise ValueError(f"ground_truth: its own query fails: {error}") from error
    text = (behind_thought(as_text(solution_str)) or "")[:LONGEST]
    try:
        found = run(last_block(text, ("sql", "sqlite")), *tables, timeout_s, max(max_rows, len(right[1])))
    except QueryError:
        return {"score": 0.0, "acc": 0.0, "format": 0.0}
    ordered = truth.get("ordered")
    ordered = is_ordered(str(truth["query"])) if ordered is None else bool(ordered)
    correct = found == right if ordered else (found[0], Counter(found[1])) == (right[0], Counter(right[1]))
    return {"score": float(correct), "acc": float(correct), "format": 1.0}


def is_ordered(query: str) -> bool:
    """Whether a query orders its rows: ORDER BY outside of all brackets and texts."""
    flat = re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*", " ", query)
    while (shorter := re.sub(r"\([^()]*\)", " ", flat)) != flat:
        flat = shorter
    return re.search(r"\border\s+by\b", flat, re.IGNORECASE) is not None


@lru_cache(maxsize=4096)
def _right_rows(query: str, schema: str, database: str) -> tuple[int, list[tuple[Any, ...]]]:
    return run(query, schema, database, timeout_s=60.0, max_rows=1_000_000)


def run(query: str, schema: str, database: str, timeout_s: float, max_rows: int) -> tuple[int, list[tuple[Any, ...]]]:
    """The number of columns and the rows of one query that only reads, with numbers that are whole as integers.

    Args:
        query: One statement.
        schema: Statements that make the tables of a database in memory.
        database: An SQLite file instead.
        timeout_s: Seconds that it may run.
        max_rows: Rows that it may give.

    Raises:
        QueryError: If it does not run, runs too long, gives more rows, or does more than reading.
        ValueError: If the tables cannot be made, or the file is not there.
    """
    connection = _open(schema, database)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in READS else sqlite3.SQLITE_DENY)
        end = time.monotonic() + timeout_s
        connection.set_progress_handler(lambda: time.monotonic() > end, CHECK_EVERY)
        cursor = connection.execute(query.strip().rstrip(";"))
        if cursor.description is None:  # an empty text, a comment: no rows, as a right query may give
            raise QueryError("no query")
        columns, rows = len(cursor.description), cursor.fetchmany(max_rows + 1)
    except QueryError:
        raise
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as error:
        raise QueryError(str(error)) from error
    finally:
        connection.close()
    if len(rows) > max_rows:
        raise QueryError(f"more than {max_rows} rows")
    return columns, [tuple(_plain(value) for value in row) for row in rows]


def _open(schema: str, database: str) -> sqlite3.Connection:
    try:
        if database:
            return sqlite3.connect(f"{Path(database).resolve(strict=True).as_uri()}?mode=ro&immutable=1", uri=True)
        connection = sqlite3.connect(":memory:")
        connection.executescript(schema)
        return connection
    except (sqlite3.Error, OSError) as error:
        raise ValueError(f"ground_truth: the tables cannot be made or opened: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else round(value, 6)
    return value
