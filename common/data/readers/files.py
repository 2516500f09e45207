"""Bytes of a data file, also of compressed ones, within bounds of memory."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

MIB = 2**20
CHUNK = 4 * MIB
MAX_ROW = 64 * MIB  # bytes of one row; a longer one is a mistake (or an attack) and not a training example
MAX_RATIO = 200  # text shrinks 3 to 20 times; a file of zeros 1,000 times
RATIO_COUNTS_FROM = 256 * MIB
ORDINARY_ROW = 64 * 2**10  # bytes; rows up to this are read however often the same text is in them
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
UNPACK = "if you trust it, write it as JSON lines with the program that made it, and give that"
SPLIT_WORD = re.compile(r"(?<![a-z])(train|test|val|valid|validation|dev|eval)(?![a-z])")
KINDS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".xlsx")


class DataError(ValueError):
    """A file that cannot be read further; the message names the file, the place and the fix."""


def kind_of(path: Path) -> tuple[str, bool]:
    """Return the kind of a file by its name, and whether it is compressed with gzip.

    Raises:
        DataError: If the name has no suffix that is known.
    """
    packed = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if packed else path).suffix.lower()
    suffix = {".ndjson": ".jsonl"}.get(suffix, suffix)
    if suffix not in KINDS:
        known = ", ".join(kind[1:] for kind in KINDS)
        raise DataError(
            f"{path}: cannot read {path.suffix or 'a file without suffix'}; known are {known}, and gz of these"
        )
    return suffix, packed


class BoundedGzip:
    """A gzip file that refuses to become absurdly larger than it is on disk."""

    def __init__(self, path: Path):
        self.path, self.total = path, 0
        self.limit = max(RATIO_COUNTS_FROM, path.stat().st_size * MAX_RATIO)
        self.file = gzip.open(path, "rb")

    def read(self, size: int = CHUNK) -> bytes:
        """At most ``size`` bytes of the unpacked file.

        Raises:
            DataError: If the file is not gzip, is damaged, or unpacks to more than ``MAX_RATIO`` times its size.
        """
        try:
            data = self.file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.path}: not a whole gzip file ({error}); fetch it again") from error
        self.total += len(data)
        if self.total > self.limit:
            raise DataError(
                f"{self.path}: unpacks to more than {MAX_RATIO} times its size, as zip bombs do; "
                "if you trust it, unpack it with gunzip and give the result"
            )
        return data

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class RowBudget:
    """What the rows of a file may become in memory where it can name one long text many times (parquet, xlsx).

    Whoever holds n rows of a file within it holds no more than the largest of 256 MiB, ``MAX_RATIO`` times the file,
    and n times ``ORDINARY_ROW``.
    """

    def __init__(self, path: Path):
        self.path, self.rows, self.total = path, 0, 0
        self.limit = max(RATIO_COUNTS_FROM, path.stat().st_size * MAX_RATIO)

    def take(self, rows: int, size: int) -> None:
        """Count rows that became so many bytes.

        Raises:
            DataError: If one of them is larger than ``MAX_ROW``, or all of them so far than the limit.
        """
        if rows == 1 and size > MAX_ROW:
            raise DataError(
                f"{self.path}: row {self.rows + 1}: becomes {size // MIB:,} MiB, and a row may have {MAX_ROW // MIB} "
                "MiB; split the text or leave the row out"
            )
        self.rows += rows
        self.total += size
        if self.total > max(self.limit, self.rows * ORDINARY_ROW):
            raise DataError(
                f"{self.path}: row {self.rows}: the rows up to it become {self.total // MIB:,} MiB, more than "
                f"{self.limit // MIB:,} MiB ({MAX_RATIO} times the file), as zip bombs do; {UNPACK}"
            )


def open_bytes(path: Path, packed: bool) -> contextlib.closing[BinaryIO | BoundedGzip]:
    """Open a file for reading its (unpacked) bytes."""
    return contextlib.closing(BoundedGzip(path) if packed else path.open("rb"))


def check_fetched(path: Path) -> None:
    """Refuse a Git LFS pointer, which is in a clone where the data should be.

    Raises:
        DataError: If it is one.
    """
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise DataError(
                f"{path}: is a Git LFS pointer and not the data; in its clone: git lfs install && "
                f"git lfs pull --include '*{path.name}'"
            )


def chunks(path: Path, packed: bool, encoding: str | None = None) -> Iterator[bytes]:
    """Yield a file in pieces of some megabytes, those of UTF-8 (no ``encoding`` given) without a byte order mark.

    Raises:
        DataError: If no encoding is given and the file is UTF-16, or a bad gzip file.
    """
    with open_bytes(path, packed) as stream:
        first = stream.read(CHUNK)
        while len(first) < 3 and (more := stream.read(CHUNK)):
            first += more
        if encoding is None:
            if name := BYTE_ORDER_MARKS.get(first[:2]):
                raise DataError(f"{path}: is {name}; give --encoding {name.lower()}")
            first = first.removeprefix(codecs.BOM_UTF8)
        if first:
            yield first
        while data := stream.read(CHUNK):
            yield data


def lines(path: Path, packed: bool) -> Iterator[bytes]:
    r"""Yield the lines of a file, ended by ``\n`` alone, so that other separators in a text stay in it.

    Raises:
        DataError: If a line is longer than ``MAX_ROW``.
    """
    rest = b""
    number = 0
    for data in chunks(path, packed):
        parts = (rest + data).split(b"\n")
        rest = parts.pop()
        number += len(parts)
        yield from parts
        if len(rest) > MAX_ROW:
            raise DataError(f"{path}: line {number + 1}: {too_long()}")
    if rest:
        yield rest


def text_chunks(path: Path, packed: bool, encoding: str | None = None, errors: str = "strict") -> Iterator[str]:
    """Yield a file's text in pieces, whose ends may be anywhere, without a byte order mark.

    Args:
        path: The file.
        packed: Whether it is compressed with gzip.
        encoding: Of the text; UTF-8 by default.
        errors: As in ``bytes.decode``.

    Raises:
        DataError: If the encoding is unknown or the text is not in it, with the line.
    """
    try:
        decoder = codecs.getincrementaldecoder(encoding or "utf-8")(errors)
    except LookupError as error:
        raise DataError(f"--encoding {encoding}: not known; for Chinese files try gb18030") from error
    number, column, first = 1, 0, True  # column: bytes of the line that were in the pieces before
    with contextlib.closing(chunks(path, packed, encoding)) as pieces:
        for data in chain(pieces, [b""]):
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                column -= len(error.object) - len(data)  # the beginning of a character was kept from the last piece
                raise DataError(f"{path}: {_not_decoded(error, number, column, encoding)}") from error
            except UnicodeError as error:
                raise DataError(f"{path}: line {number}: is not {encoding} ({error})") from error
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            number += text.count("\n")
            column = len(data) - data.rfind(b"\n") - 1 if b"\n" in data else column + len(data)
            if text:
                yield text


def text_lines(path: Path, packed: bool, encoding: str | None = None) -> Iterator[str]:
    r"""Yield a file's lines, each with its ``\n`` at the end.

    Raises:
        DataError: See ``text_chunks``; and if a line is longer than ``MAX_ROW`` characters.
    """
    rest = ""
    number = 0
    for text in text_chunks(path, packed, encoding):
        parts = (rest + text).split("\n")
        rest = parts.pop()
        number += len(parts)
        yield from (part + "\n" for part in parts)
        if len(rest) > MAX_ROW:
            raise DataError(f"{path}: line {number + 1}: {too_long()}")
    if rest:
        yield rest + "\n"


def _not_decoded(error: UnicodeDecodeError, line: int, column: int, encoding: str | None) -> str:
    """What is wrong where, for a piece of a file that begins in a line behind so many bytes of it."""
    before = error.object[: error.start]
    if encoding is not None:
        return f"line {line + before.decode(encoding, 'replace').count(chr(10))}: is not {encoding} ({error.reason})"
    number, starts = line + before.count(b"\n"), before.rfind(b"\n") + 1
    column = error.start - starts + 1 + (0 if starts else column)
    text = error.object[starts:].split(b"\n", 1)[0]
    return f"line {number}: is not UTF-8 (byte {error.object[error.start]:#04x} at {column}){guess_of_encoding(text)}"


def too_long() -> str:
    """What to say of a row of more than ``MAX_ROW`` bytes."""
    return f"longer than {MAX_ROW // MIB} MiB; give one row on each line (JSONL), or a list [{{...}}, ...]"


def guess_of_encoding(line: bytes) -> str:
    """A hint for a line that is not UTF-8: Chinese, or with the quotation marks of Windows; empty when neither."""
    for encoding, name in (("gb18030", "GBK"), ("cp1252", "Windows-1252")):
        with contextlib.suppress(UnicodeDecodeError):
            codecs.getincrementaldecoder(encoding)().decode(line)  # its last character may be cut off
            return f"; it may be {name}: give --encoding {encoding}"
    return ""


def data_files(folder: Path) -> list[Path]:
    """The data files of a folder (not of the folders in it) to read one after another, by name.

    Raises:
        DataError: If there are none, of several kinds, or of several splits.
    """
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    found = [path for path in found if path.name.lower().removesuffix(".gz").endswith((*KINDS, ".ndjson"))]
    if not found:
        raise DataError(f"{folder}: is a folder without data files ({', '.join(kind[1:] for kind in KINDS)})")
    kinds = {kind_of(path)[0] for path in found}
    if len(kinds) > 1:
        raise DataError(f"{folder}: holds {' and '.join(sorted(kinds))} files; give those of one kind")
    splits = {word for path in found for word in SPLIT_WORD.findall(path.name.lower())}
    if splits & {"train"} and splits - {"train"}:
        raise DataError(f"{folder}: holds files of several splits ({', '.join(sorted(splits))}); give those of one")
    return found


def check_zip(path: Path) -> None:
    """Refuse a damaged xlsx file, or one that unpacks to absurdly more than it is.

    Raises:
        DataError: In both cases.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: not a whole xlsx file ({error})") from error
    if total > max(RATIO_COUNTS_FROM, path.stat().st_size * MAX_RATIO):
        raise DataError(f"{path}: unpacks to {total:,} bytes, as zip bombs do; save it as csv and give that")


@contextlib.contextmanager
def replaced_when_complete(*targets: Path) -> Iterator[list[Path]]:
    """Give names to write to; they become the targets at the end, all of them, and only if nothing was raised."""
    partials = [target.with_name(f".{target.name}.{os.getpid()}.partial") for target in targets]
    try:
        yield partials
        for partial, target in zip(partials, targets, strict=True):
            if partial.exists():
                partial.replace(target)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
