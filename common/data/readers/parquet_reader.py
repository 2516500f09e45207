"""Rows of parquet files, decoded in a separate process: a file of 251 bytes can ask for gigabytes.

A dictionary gives millions of rows the same long text, a list in one row has as many values as it says, a page of
zeros unpacks to 30,000 times its size, and none of it can be known before it is decoded. So a process with a limit
decodes (and may fail, or crash over a damaged file) and hands on batches that are small enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.readers.files import DataError
from common.data.readers.record import Record
from common.worker import Worker, WorkerDied

if TYPE_CHECKING:
    import pyarrow as pa

LIMIT_S = 600.0  # for some megabytes, also from a slow disk
_idle: list[Worker] = []


def parquet_rows(path: Path, packed: bool) -> Iterator[Record]:
    """Yield the rows of a parquet file; see ``readers.read_records``."""
    import pyarrow as pa

    if packed:
        raise DataError(f"{path}: parquet is compressed by itself; unpack it with gunzip")
    number = 0
    try:
        for batch in parquet_batches(path):
            for row in _without_nan(batch).to_pylist(maps_as_pydicts="lossy"):
                number += 1
                yield Record(number, row)
    except (pa.ArrowException, ValueError, OverflowError, RecursionError) as error:  # dates that Python has not
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a parquet file that can be read ({error})") from error


def parquet_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a parquet file in batches of limited size, categories as their values.

    Args:
        path: The file.
        columns: Names of those to read; all by default.

    Raises:
        DataError: If it cannot be read (further), a row is larger than ``files.MAX_ROW``, or the rows so far are more
            than ``files.RowBudget`` lets pass.
        OSError: If it cannot be opened.
    """
    import pyarrow as pa

    path.open("rb").close()  # says why, in the way of all other files
    worker = _idle.pop() if _idle else Worker("common.data.readers.parquet_child")
    whole = str(path.absolute())
    question = (whole, None if columns is None else list(columns))
    ahead = ThreadPoolExecutor(1)
    try:
        asked = ahead.submit(worker.ask, question, LIMIT_S)
        while (reply := asked.result()) is not None:
            if isinstance(reply, str):
                raise DataError(reply.replace(whole, str(path), 1))
            asked = ahead.submit(worker.ask, None, LIMIT_S)  # decoded while the caller works on this one
            with pa.ipc.open_stream(reply) as stream:
                yield from stream
    except WorkerDied as error:
        raise DataError(f"{path}: not a parquet file that can be read: {error}") from error
    except TimeoutError as error:
        raise DataError(f"{path}: its next rows were not decoded within {LIMIT_S:g} s") from error
    finally:
        ahead.shutdown()  # waits for the answer that nobody reads any more
        _idle.append(worker)


def _without_nan(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch with nothing where a column of floats has NaN, as in JSON."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for position, field in enumerate(batch.schema):
        if pa.types.is_floating(field.type):
            column = batch.column(position)
            batch = batch.set_column(position, field, pc.if_else(pc.is_nan(column), None, column))
    return batch
