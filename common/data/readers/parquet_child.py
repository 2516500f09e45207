"""The process that decodes parquet files for ``common.data.readers.parquet_reader``, within limits of memory."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.readers.files import MAX_ROW, MIB, UNPACK, DataError, RowBudget
from common.worker import address_space, serve

if TYPE_CHECKING:
    import pyarrow as pa

DECODED_ROWS = 256  # at once: a dictionary may give each of them its longest value, and more are hardly faster
MOST_ROWS, MOST_BYTES = 4_096, 16 * MIB  # of a reply
ROOM = 1_024 * MIB  # of address space, to decode a small file
ROOM_FOR_BYTE = 4  # more of it for each byte of a file: the columns of a row group are read as a whole
Question = tuple[str, list[str] | None] | None


def prepare() -> Callable[[Question], bytes | str | None]:
    """What answers: ``(path, columns)`` opens a file, None asks for more of it.

    A reply is an Arrow stream, None at the end of the file, or a text: why it cannot be read further.
    """
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # the others reserve more address space than they need
    import pyarrow.parquet  # noqa: F401

    before, replies = address_space(), iter(())

    def answer(question: Question) -> bytes | str | None:
        nonlocal replies
        if question:
            path = Path(question[0])
            room = ROOM + ROOM_FOR_BYTE * path.stat().st_size
            resource.setrlimit(resource.RLIMIT_AS, (before + room, resource.RLIM_INFINITY))
            replies = _replies(path, question[1], room)
        return next(replies, None)

    return answer


def _replies(path: Path, columns: list[str] | None, room: int) -> Iterator[bytes | str]:
    """The batches of a file as Arrow streams of some megabytes; at the end perhaps what is wrong with it."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    try:
        for batch, batch_size in _pieces(path, columns):
            waiting.append(batch)
            rows, size = rows + batch.num_rows, size + batch_size
            if rows >= MOST_ROWS or size >= MOST_BYTES:
                yield _stream(waiting)
                waiting, rows, size = [], 0, 0
    except DataError as error:
        problem = str(error)
    except MemoryError:  # Arrow's is one
        problem = f"{path}: its next rows need more than {room // MIB:,} MiB to decode, as zip bombs do; {UNPACK}"
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        problem = f"{path}: not a parquet file that can be read ({error})"
    else:
        problem = ""
    if waiting:
        yield _stream(waiting)
    if problem:
        yield problem


def _pieces(path: Path, columns: list[str] | None) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Batches of at most ``MAX_ROW`` bytes, each with the bytes that its values take in Python or more."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    budget = RowBudget(path)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(DECODED_ROWS, columns=columns, use_threads=False):
            for position, field in enumerate(batch.schema):
                if pa.types.is_dictionary(field.type):  # else its values would become many only in the other process
                    plain = batch.column(position).dictionary_decode()
                    batch = batch.set_column(position, field.with_type(plain.type), plain)
            pieces = [batch]
            while pieces:
                piece = pieces.pop()
                size = sum(_size(column) for column in piece.columns)
                if size > MAX_ROW and piece.num_rows > 1:
                    half = piece.num_rows // 2
                    pieces += [piece.slice(half), piece.slice(0, half)]
                    continue
                budget.take(piece.num_rows, size)
                yield piece, size


def _size(values: pa.Array) -> int:
    """Bytes of an array's texts and of the references to its values; a list of a million nulls has no bytes itself."""
    import pyarrow as pa

    if pa.types.is_struct(values.type):
        return 8 * len(values) + sum(_size(part) for part in values.flatten())
    if pa.types.is_map(values.type):
        return values.nbytes + 8 * len(values)
    if pa.types.is_nested(values.type) and hasattr(values, "flatten"):
        return 8 * len(values) + _size(values.flatten())
    return 8 * len(values) + values.nbytes


def _stream(batches: list[pa.RecordBatch]) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


if __name__ == "__main__":
    serve(prepare)
