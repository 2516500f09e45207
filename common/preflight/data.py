"""Data files of a run: found, counted, their first rows read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from common.data.readers.records import Record, read_records
from common.data.rows import loaded

SAMPLE_ROWS = 2000  # rows that are looked at one by one; the number of rows is always exact
CONVERT = ".venv/bin/python -m common.data_utils convert makes it from any common form"


@dataclass(frozen=True)
class DataFile:
    """One data file.

    Args:
        path: Where it is.
        rows: How many it has.
        sample: Its first rows, at most ``SAMPLE_ROWS``, as the trainer reads them.
    """

    path: Path
    rows: int
    sample: list[dict[str, Any]]


def read_file(path: Path) -> DataFile:
    """Read the number of rows and the first rows of a file.

    Args:
        path: The file.

    Raises:
        ValueError: If it cannot be read or is empty.
    """
    try:
        sample = [_row(path, record) for record in islice(read_records(path), SAMPLE_ROWS)]
        rows = _count(path) if len(sample) == SAMPLE_ROWS else len(sample)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    if not sample:
        raise ValueError(f"{path}: has no rows")
    return DataFile(path, rows, sample)


def _row(path: Path, record: Record) -> dict[str, Any]:
    if record.row is None:
        raise ValueError(f"{path}: line {record.place}: {record.problem}")
    return {name: loaded(value) for name, value in record.row.items()}


def _count(path: Path) -> int:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_metadata(path).num_rows
    return sum(1 for _ in read_records(path))
