"""Rows of JSON: a list of objects, objects one a line or one after another, or one object that holds the rows.

What a file holds decides, not its name: lists are saved as ``.jsonl`` and lines as ``.json`` every day.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from common.data.readers import files
from common.data.readers.depth import MAX_DEPTH, TOO_DEEP, too_deep
from common.data.readers.files import MIB, DataError
from common.data.readers.json_object import rows_of_object
from common.data.readers.record import Record, Say

WHITE = " \t\r\n"
LINES_TRIED = 100  # to tell JSON lines whose first is broken from a file that is not JSON lines at all
# pandas writes NaN where a table has nothing, so a row with it has nothing there.
_CONSTANTS = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}
_DECODER = json.JSONDecoder(parse_constant=_CONSTANTS.get)
_SPEAKERS = {"role", "from"}  # keys of a message
_PLAIN = {str, int, bool, type(None)}
_DIGITS = bytes.maketrans(b"123456789", b"000000000")


def json_rows(path: Path, packed: bool, encoding: str | None, say: Say) -> Iterator[Record]:
    """Yield the rows of a JSON or JSON lines file; see ``readers.read_records``."""
    if _starts_with_list(path, packed, encoding) and not _is_a_conversation_a_line(path, packed, encoding):
        yield from _values(path, _Buffer(files.text_chunks(path, packed, encoding)), say)
        return
    if not _has_a_row_on_its_first_line(path, packed, encoding):
        buffer = _Buffer(files.text_chunks(path, packed, encoding))
        try:
            first_ends = _first_object_ends(path, buffer)
        except DataError:
            if not _has_rows_on_lines(path, packed, encoding):
                raise
        else:
            if first_ends:
                yield from _values(path, _Buffer(files.text_chunks(path, packed, encoding)), say)
                return
    yield from _lines(path, packed, encoding, say)


def _byte_lines(path: Path, packed: bool, encoding: str | None) -> Iterator[bytes]:
    if encoding is None:
        return files.lines(path, packed)
    return (line.encode() for line in files.text_lines(path, packed, encoding))


def _starts_with_list(path: Path, packed: bool, encoding: str | None) -> bool:
    for piece in files.text_chunks(path, packed, encoding, errors="replace"):
        if text := piece.lstrip(WHITE):
            return text[0] == "["
    return False


def _is_a_conversation_a_line(path: Path, packed: bool, encoding: str | None) -> bool:
    """Whether each of the first two lines is a list of messages; one alone is a list of rows."""
    lines = (line for line in _byte_lines(path, packed, encoding) if line.strip())
    try:
        records = [_line(1, line) for line in islice(lines, 2)]
    except DataError:  # a list on one line, longer than a row may be
        return False
    return len(records) == 2 and all(record.row is not None and "messages" in record.row for record in records)


def _row_of(value: Any) -> dict[str, Any] | None:
    """An object as it is, a list of messages as the row that holds them; None for all else."""
    if isinstance(value, list) and value and all(type(one) is dict and _SPEAKERS & one.keys() for one in value):
        return {"messages": value}
    return value if isinstance(value, dict) else None


def _has_a_row_on_its_first_line(path: Path, packed: bool, encoding: str | None) -> bool:
    """Whether the first line that is not empty can be read alone; True for an empty file."""
    for number, line in enumerate(_byte_lines(path, packed, encoding), 1):
        if line.strip():
            return _line(number, line).row is not None
    return True


def _has_rows_on_lines(path: Path, packed: bool, encoding: str | None) -> bool:
    lines = islice(_byte_lines(path, packed, encoding), LINES_TRIED)
    return any(_line(number, line).row for number, line in enumerate(lines, 1))


def _first_object_ends(path: Path, buffer: _Buffer) -> bool:
    """Whether the first object is more than its line, or is followed by something on its last line."""
    if buffer.peek() != "{":
        return False
    started = buffer.line
    _object(path, buffer)
    ended = buffer.line
    return ended > started or (bool(buffer.peek()) and buffer.line == ended)


def _lines(path: Path, packed: bool, encoding: str | None, say: Say) -> Iterator[Record]:
    """One object a line; a line that cannot be read is named and skipped."""
    import orjson

    loads = orjson.loads
    numbered = enumerate(_byte_lines(path, packed, encoding), 1)
    head = list(islice(((number, line) for number, line in numbered if line.strip()), 2))
    if len(head) == 1:
        record = _line(*head[0])
        yield from rows_of_object(path, record, say) if record.row is not None else [record]
        return
    for number, line in chain(head, numbered):
        try:
            row = loads(line)
        except orjson.JSONDecodeError:
            if line.strip():
                yield _line(number, line)
            continue
        if type(row) is not dict:
            yield _line(number, line)
        elif _PLAIN.issuperset(map(type, row.values())):
            yield Record(number, row)
        elif b"0" * 19 in line.translate(_DIGITS) or (
            line.count(b"[") + line.count(b"{") > MAX_DEPTH and too_deep(row)
        ):
            yield _line(number, line)  # orjson makes floats of integers above 64 bits, and takes any depth
        else:
            yield Record(number, row)


def _line(number: int, line: bytes) -> Record:
    """Read what the fast reader refuses: NaN, large integers, halves of surrogate pairs; or say what is wrong."""
    try:
        row = _DECODER.decode(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        at = f"byte {line[error.start]:#04x} at {error.start + 1}"
        return Record(number, None, f"is not UTF-8 ({at}){files.guess_of_encoding(line)}")
    except RecursionError:
        return Record(number, None, TOO_DEEP)
    except json.JSONDecodeError as error:
        return Record(number, None, f"is not JSON: {error.msg} at character {error.colno}")
    except ValueError as error:  # an integer of thousands of digits
        return Record(number, None, f"is not JSON: {error}")
    if too_deep(row):
        return Record(number, None, TOO_DEEP)
    made = _row_of(row)
    if made is None:
        return Record(number, None, f"holds {_name(row)}; each line must be an object {{...}}")
    return Record(number, made)


def _name(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), f"a {type(value).__name__}")


class _Buffer:
    """Text that is read further when more of it is needed; knows the number of the line it is at.

    ``peek`` and ``more`` set ``at``: call them in a separate statement before one that changes it.
    """

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
            if not self.more(1):
                return ""

    def take(self, character: str) -> bool:
        """Pass over the next character that is not white space if it is this one."""
        found = self.peek() == character
        if found:
            self.at += 1
        return found


def _values(path: Path, buffer: _Buffer, say: Say) -> Iterator[Record]:
    """A list of objects; also objects one after another, with or without commas."""
    in_list = buffer.take("[")
    first, line = True, 1
    while (mark := buffer.peek()) and mark != "]":
        line = buffer.line
        row = _object(path, buffer, in_list)
        if first and not in_list and not buffer.peek():
            yield from rows_of_object(path, Record(line, row), say)
            return
        yield Record(line, row)
        first = False
        if in_list and buffer.peek() not in (",", "]", ""):
            raise DataError(f"{path}: line {buffer.line}: expected a comma or the end of the list{_found(buffer)}")
        buffer.take(",")
    if in_list and not buffer.take("]"):
        raise DataError(f"{path}: line {line}: the list is not closed; the file may be cut off")
    if buffer.peek():
        raise DataError(f"{path}: line {buffer.line}: there is more behind the end of the list{_found(buffer)}")


def _found(buffer: _Buffer) -> str:
    return f", found {buffer.text[buffer.at : buffer.at + 20]!r}" if buffer.peek() else "; the file may be cut off"


def _object(path: Path, buffer: _Buffer, lists: bool = False) -> dict[str, Any]:
    """The object at the buffer's place; with ``lists`` also a list of messages."""
    mark = buffer.peek()
    if mark != "{" and not (lists and mark == "["):
        raise DataError(f"{path}: line {buffer.line}: expected a row {{...}}{_found(buffer)}")
    size = MIB
    while True:
        try:
            value, end = _DECODER.raw_decode(buffer.text, buffer.at)
            if (row := _row_of(value)) is None:
                raise DataError(f"{path}: line {buffer.line}: expected a row {{...}}{_found(buffer)}")
            if not _PLAIN.issuperset(map(type, row.values())) and too_deep(row):
                raise RecursionError
            buffer.at = end
            return row
        except RecursionError:
            raise DataError(f"{path}: line {buffer.line}: {TOO_DEEP}") from None
        except ValueError as error:
            at = getattr(error, "pos", buffer.at) - buffer.at
            if size <= files.MAX_ROW and buffer.more(size):  # the rest of the row was not read yet
                size *= 2
                continue
            if size > files.MAX_ROW:
                raise DataError(f"{path}: line {buffer.line}: a row is {files.too_long()}") from None
            line = buffer.line + buffer.text.count("\n", buffer.at, buffer.at + at)
            raise DataError(f"{path}: line {line}: is not JSON: {getattr(error, 'msg', error)}") from None
