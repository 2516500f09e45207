"""Rows of a data file, whatever its kind, one by one, each with its place in the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.data import files
from common.data.csv_reader import csv_rows
from common.data.excel_reader import excel_rows
from common.data.files import DataError
from common.data.json_reader import json_rows
from common.data.record import Record, Say, say_in_log

if TYPE_CHECKING:
    import pyarrow as pa

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

    Rows that cannot be read come with a ``problem`` where reading can go on behind them.

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
        return _parquet(path, packed)
    if kind == ".xlsx":
        return excel_rows(path, packed, header, sheet, say)
    if kind in TABLES:
        return csv_rows(path, packed, encoding, header, say)
    return json_rows(path, packed, encoding, say)


def place_word(path: Path) -> str:
    """What the places of a file's records count."""
    return "row" if files.kind_of(path)[0] in (".parquet", ".xlsx") else "line"


def _parquet(path: Path, packed: bool) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if packed:
        raise DataError(f"{path}: parquet is compressed by itself; unpack it with gunzip")
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in _without_nan(batch).to_pylist(maps_as_pydicts="lossy"):
                    number += 1
                    yield Record(number, row)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: dates that Python has not
        raise DataError(f"{path}: not a parquet file that can be read ({error})") from error


def _without_nan(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch with nothing where a column of floats has NaN, as in JSON."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for position, field in enumerate(batch.schema):
        if pa.types.is_floating(field.type):
            column = batch.column(position)
            batch = batch.set_column(position, field, pc.if_else(pc.is_nan(column), None, column))
    return batch
