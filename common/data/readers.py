"""Rows of a data file, whatever its kind, one by one, each with its place in the file."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from common.data import files
from common.data.files import MAX_ROW, MIB, DataError

BATCH_ROWS = 4_096
WHITE = " \t\r\n"


class Record(NamedTuple):
    """One row as it stands in a file.

    Args:
        place: Line (JSONL, JSON, CSV) or row (parquet; xlsx as Excel counts) where it starts, from 1.
        row: Its columns, or None when it cannot be read.
        problem: Why it cannot be read, or None.
    """

    place: int
    row: dict[str, Any] | None
    problem: str | None = None


def read_records(path: Path, encoding: str | None = None) -> Iterator[Record]:
    """Yield the rows of a JSON, JSONL, CSV, TSV, parquet or xlsx file, or a gz of one of these.

    Rows that cannot be read come with a ``problem`` where reading can go on behind them (JSONL, CSV).

    Args:
        path: The file.
        encoding: Of a text file; UTF-8 with or without a byte order mark by default.

    Raises:
        DataError: If the file cannot be read (further).
        OSError: If it cannot be opened.
    """
    kind, packed = files.kind_of(path)
    if kind == ".parquet":
        return _parquet(path, packed)
    if kind == ".xlsx":
        return _xlsx(path, packed)
    text = files.recode(path, packed, encoding) if encoding else None
    if kind == ".jsonl":
        return _jsonl((line.encode() for line in text) if text else files.lines(path, packed))
    if kind == ".json":
        return _json(path, text or _decoded(path, packed))
    return _csv(path, text or _decoded(path, packed))


def place_word(path: Path) -> str:
    """What the places of a file's records count."""
    return "row" if files.kind_of(path)[0] in (".parquet", ".xlsx") else "line"


def _jsonl(lines: Iterable[bytes]) -> Iterator[Record]:
    import orjson

    loads = orjson.loads
    for number, line in enumerate(lines, 1):
        try:
            row = loads(line)
        except orjson.JSONDecodeError:
            if not line.strip():
                continue
            yield _second_try(number, line)
            continue
        if type(row) is dict:
            yield Record(number, row)
        else:
            yield Record(number, None, f"holds {_name(row)}; each line must be an object {{...}}")


def _second_try(number: int, line: bytes) -> Record:
    """Read what the fast reader refuses: NaN, large integers, halves of surrogate pairs; or say what is wrong."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Record(number, None, f"is not UTF-8 (byte {line[error.start]:#04x} at {error.start + 1}){_guess(line)}")
    except RecursionError:
        return Record(number, None, "is nested too deeply")
    except json.JSONDecodeError as error:
        return Record(number, None, f"is not JSON: {error.msg} at character {error.colno}")
    except ValueError as error:  # an integer of thousands of digits
        return Record(number, None, f"is not JSON: {error}")
    if not isinstance(row, dict):
        return Record(number, None, f"holds {_name(row)}; each line must be an object {{...}}")
    return Record(number, row)


def _guess(line: bytes) -> str:
    try:
        line.decode("gb18030")
    except UnicodeDecodeError:
        return ""
    return "; it may be GBK: give --encoding gb18030"


def _name(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), f"a {type(value).__name__}")


def _decoded(path: Path, packed: bool) -> Iterator[str]:
    """Text of a UTF-8 file, line by line.

    Raises:
        DataError: If a line is not UTF-8.
    """
    for number, line in enumerate(files.lines(path, packed), 1):
        try:
            yield line.decode("utf-8") + "\n"
        except UnicodeDecodeError as error:
            at = f"byte {line[error.start]:#04x} at {error.start + 1}"
            raise DataError(f"{path}: line {number}: is not UTF-8 ({at}){_guess(line)}") from error


class _Buffer:
    """Text that is read further when more of it is needed; knows the number of the line it is at."""

    def __init__(self, pieces: Iterator[str]):
        self.pieces, self.text, self.at = pieces, "", 0
        self._line, self._counted = 1, 0

    @property
    def line(self) -> int:
        """Number of the line of the next character, from 1."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def more(self, size: int) -> bool:
        """Read about ``size`` more characters; returns False at the end of the file."""
        _ = self.line
        parts, there = [self.text[self.at :]], 0
        for piece in self.pieces:
            parts.append(piece)
            there += len(piece)
            if there >= size:
                break
        self.text, self.at, self._counted = "".join(parts), 0, 0
        return there > 0

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in WHITE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more(MIB):
                return ""


def _json(path: Path, pieces: Iterator[str]) -> Iterator[Record]:
    """A list of objects; also objects one after another, as in a JSONL file with the wrong suffix."""
    buffer = _Buffer(pieces)
    in_list = buffer.peek() == "["
    buffer.at += in_list
    first, line = True, 1
    while (mark := buffer.peek()) and mark != "]":
        line = buffer.line
        row = _object(path, buffer)
        if first and not in_list and not buffer.peek():
            yield from _only_object(path, row)
            return
        yield Record(line, row)
        first = False
        if in_list and buffer.peek() not in (",", "]", ""):
            raise DataError(f"{path}: line {buffer.line}: expected a comma or the end of the list{_found(buffer)}")
        buffer.at += buffer.peek() == ","
    if in_list and not mark:
        raise DataError(f"{path}: line {line}: the list is not closed; the file may be cut off")
    buffer.at += in_list
    if buffer.peek():
        raise DataError(f"{path}: line {buffer.line}: there is more behind the end of the list{_found(buffer)}")


def _found(buffer: _Buffer) -> str:
    return f", found {buffer.text[buffer.at : buffer.at + 20]!r}" if buffer.peek() else "; the file may be cut off"


def _object(path: Path, buffer: _Buffer) -> dict[str, Any]:
    """The object at the buffer's place."""
    if buffer.peek() != "{":
        raise DataError(f"{path}: line {buffer.line}: expected a row {{...}}{_found(buffer)}")
    size = MIB
    while True:
        try:
            row, buffer.at = _DECODER.raw_decode(buffer.text, buffer.at)
            return row
        except RecursionError:
            raise DataError(f"{path}: line {buffer.line}: is nested too deeply") from None
        except json.JSONDecodeError as error:
            wrong_at = error.pos - buffer.at
            if size <= MAX_ROW and buffer.more(size):  # the rest of the row was not read yet
                size *= 2
                continue
            line = buffer.line + buffer.text.count("\n", buffer.at, buffer.at + wrong_at)
            raise DataError(f"{path}: line {line}: is not JSON: {error.msg}") from None


_DECODER = json.JSONDecoder()


def _only_object(path: Path, row: dict[str, Any]) -> Iterator[Record]:
    """The one object of a file is a row, or holds the list of rows."""
    lists = {key: value for key, value in row.items() if isinstance(value, list) and value}
    of_rows = [key for key, value in lists.items() if isinstance(value[0], dict) and not _is_message(value[0])]
    if not of_rows:
        yield Record(1, row)
    elif len(of_rows) == 1:
        yield from (Record(number, value) for number, value in enumerate(row[of_rows[0]], 1))
    else:
        raise DataError(f"{path}: holds {len(of_rows)} lists of rows ({', '.join(of_rows)}); save each as a file")


def _is_message(value: dict[str, Any]) -> bool:
    return "role" in value or "from" in value


def _csv(path: Path, text: Iterator[str]) -> Iterator[Record]:
    csv.field_size_limit(min(sys.maxsize, MAX_ROW))
    first = next(text, "")
    if not first.strip():
        raise DataError(f"{path}: line 1: is empty; the first line must name the columns")
    separator = max("\t,;", key=first.count)
    rows = csv.reader(chain([first], text), delimiter=separator, strict=True)
    try:
        header = [name.strip() for name in next(rows)]
        if len(set(header)) < len(header):
            raise DataError(f"{path}: line 1: two columns have the same name: {', '.join(header)}")
        start = rows.line_num + 1
        for values in rows:
            if len(values) == len(header):
                yield Record(start, dict(zip(header, values, strict=True)))
            elif values:
                yield Record(
                    start,
                    None,
                    f"has {len(values)} values for {len(header)} columns; quote texts that hold {separator!r}",
                )
            start = rows.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num}: {error}; is a quotation mark not closed?") from error


def _parquet(path: Path, packed: bool) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if packed:
        raise DataError(f"{path}: parquet is compressed by itself; unpack it with gunzip")
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist(maps_as_pydicts="lossy"):
                    number += 1
                    yield Record(number, row)
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a whole parquet file ({error})") from error


def _xlsx(path: Path, packed: bool) -> Iterator[Record]:
    """The first sheet; its first row names the columns."""
    import openpyxl

    if packed:
        raise DataError(f"{path}: xlsx is compressed by itself; unpack it with gunzip")
    files.check_zip(path)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # openpyxl lets errors of its XML parser through
        raise DataError(f"{path}: not a whole xlsx file ({type(error).__name__}: {error})") from error
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        header = [str(name).strip() for name in next(rows, ()) if name is not None]
        if not header:
            raise DataError(f"{path}: row 1: is empty; the first row must name the columns")
        for number, values in enumerate(rows, 2):
            if any(value is not None for value in values):
                yield Record(number, dict(zip(header, values, strict=False)))
    finally:
        book.close()
