"""Rows of a data file, whatever its kind, one by one, each with its place in the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common.data.readers import files
from common.data.readers.csv_reader import csv_rows
from common.data.readers.excel_reader import excel_rows
from common.data.readers.files import DataError
from common.data.readers.json_reader import json_rows
from common.data.readers.parquet_reader import parquet_rows
from common.data.readers.record import Record, Say, say_in_log

BATCH_ROWS = 4_096
TABLES = (".csv", ".tsv", ".xlsx")


def read_records(
    path: Path,
    encoding: str | None = None,
    header: bool = True,
    sheet: str | int | None = None,
    say: Say = say_in_log,
) -> Iterator[Record]:
    """Yield the rows of a JSON, JSONL, CSV, TSV, parquet or xlsx file, or a gz of one of the first four.

    Rows that cannot be read come with a ``problem`` where reading can continue behind them.

    Args:
        path: The file.
        encoding: Of a text file; UTF-8 with or without a byte order mark by default.
        header: Whether the first row of a CSV, TSV or xlsx file names the columns; without, they are called
            ``column1``, ``column2`` and so on.
        sheet: Name or number from 1 of an xlsx file's sheet; the first by default.
        say: Called with a sentence about each thing that is guessed or left out; writes it to the log by default.

    Raises:
        DataError: If the file cannot be read (further).
        OSError: If it cannot be opened.
    """
    kind, packed = files.kind_of(path)
    if not header and kind not in TABLES:
        raise DataError(f"{path}: --no-header is for CSV, TSV and xlsx files")
    if sheet is not None and kind != ".xlsx":
        raise DataError(f"{path}: --sheet {sheet}: only xlsx files have sheets")
    files.check_fetched(path)
    if kind == ".parquet":
        return parquet_rows(path, packed)
    if kind == ".xlsx":
        return excel_rows(path, packed, header, sheet, say)
    if kind in TABLES:
        return csv_rows(path, packed, encoding, header, say)
    return json_rows(path, packed, encoding, say)


def place_word(path: Path) -> str:
    """What the places of a file's records count."""
    return "row" if files.kind_of(path)[0] in (".parquet", ".xlsx") else "line"
