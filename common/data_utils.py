"""Rows with a question and an answer become the parquet files that verl's trainers read.

``python -m common.data_utils convert data.jsonl train.parquet --algo grpo --input question --output answer``
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

BATCH_ROWS = 10_000
ALGORITHMS = ("grpo", "sft")
ANSWER = r"####\s*(.+?)\s*$"  # GSM8K's mark of the final answer; without it the whole text is the answer


def json_to_parquet(source: str, target: str, **options: Any) -> int:
    """Convert a JSON, JSONL, CSV or parquet file; returns the number of rows.

    Args:
        source: File with one question and one answer a row.
        target: Parquet file to write; it appears when it is complete.
        **options: See ``convert``.
    """
    return convert(Path(source), Path(target), **options)


def convert(
    source: Path,
    target: Path,
    algorithm: str = "sft",
    question: str = "question",
    answer: str = "answer",
    data_source: str | None = None,
    answer_pattern: str = ANSWER,
    limit: int | None = None,
    skip: int = 0,
) -> int:
    """Write the rows of a file as verl reads them, in batches, so that memory stays flat.

    Args:
        source: JSON (a list), JSONL, CSV or parquet.
        target: Parquet file to write; it is renamed into place when it is complete.
        algorithm: ``sft`` writes ``messages``; ``grpo`` writes ``data_source prompt ability reward_model extra_info``.
        question: Column with the user's text.
        answer: Column with the assistant's text.
        data_source: Name of the data set; the file's name without suffix by default.
        answer_pattern: Regular expression whose first group is the final answer (``grpo``).
        limit: Rows to write at most.
        skip: Rows to leave out at the start, e.g. to take validation rows from the end of a file.

    Returns:
        Number of rows written.

    Raises:
        ValueError: If a row lacks a column or has an empty one; the message names file, row and field.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if algorithm not in ALGORITHMS:
        raise ValueError(f"--algo {algorithm}: must be one of {', '.join(ALGORITHMS)}")
    name = data_source or source.stem
    selected = islice(enumerate(read_rows(source)), skip, None if limit is None else skip + limit)
    rows = (
        to_row(algorithm, _text(source, i, row, question), _text(source, i, row, answer), name, i, answer_pattern)
        for i, row in selected
    )
    partial = target.with_name(f".{target.name}.partial")
    written, writer = 0, None
    try:
        while batch := list(islice(rows, BATCH_ROWS)):
            table = pa.Table.from_pylist(batch)
            writer = writer or pq.ParquetWriter(partial, table.schema)
            writer.write_table(table)
            written += len(batch)
        if writer is None:
            raise ValueError(f"{source}: no rows to convert")
        writer.close()
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return written


def to_row(algorithm: str, question: str, answer: str, data_source: str, index: int, pattern: str) -> dict[str, Any]:
    """One row in verl's form."""
    user = {"role": "user", "content": question}
    if algorithm == "sft":
        return {"messages": [user, {"role": "assistant", "content": answer}]}
    found = re.search(pattern, answer, re.MULTILINE)
    return {
        "data_source": data_source,
        "prompt": [user],
        "ability": "general",
        "reward_model": {"style": "rule", "ground_truth": found.group(1) if found else answer.strip()},
        "extra_info": {"index": index, "answer": answer},
    }


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file one by one.

    Raises:
        ValueError: If the kind of file is not known or a line cannot be read.
    """
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(f"{path}: cannot read {path.suffix or 'a file without suffix'}; give {', '.join(readers)}")
    yield from readers[path.suffix](path)


def _read_json(path: Path) -> Iterable[dict[str, Any]]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a list of rows")
    return rows


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}: line {number}: {error}") from error


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream)


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield from batch.to_pylist()


def _text(path: Path, index: int, row: dict[str, Any], column: str) -> str:
    value = row.get(column) if isinstance(row, dict) else None
    if value is None or not str(value).strip():
        there = f"; columns: {', '.join(map(str, row))}" if isinstance(row, dict) else ""
        raise ValueError(f"{path}: row {index + 1}: column {column!r} is missing or empty{there}")
    return str(value)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m common.data_utils", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("convert", help="questions and answers -> what a trainer reads")
    one.add_argument("source", type=Path, help="JSON, JSONL, CSV or parquet")
    one.add_argument("target", type=Path, help="parquet file to write")
    one.add_argument("--algo", dest="algorithm", choices=ALGORITHMS, default="sft")
    one.add_argument("--input", dest="question", default="question", help="column with the user's text")
    one.add_argument("--output", dest="answer", default="answer", help="column with the assistant's text")
    one.add_argument("--data-source", help="name of the data set (default: the file's name)")
    one.add_argument("--answer-pattern", default=ANSWER, help="regular expression; group 1 is the final answer")
    one.add_argument("--max-rows", dest="limit", type=int, help="rows to write at most")
    one.add_argument("--skip", type=int, default=0, help="rows to leave out at the start")
    options = vars(parser.parse_args(argv))
    options.pop("command")
    try:
        rows = convert(**options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options['target']}: {rows:,} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
