"""Bytes of a data file, also of compressed ones, within bounds of memory."""

from __future__ import annotations

import contextlib
import gzip
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MIB = 2**20
CHUNK = 4 * MIB
MAX_ROW = 64 * MIB  # bytes of one row; a longer one is a mistake (or an attack) and not a training example
MAX_RATIO = 200  # text shrinks 3 to 20 times; a file of zeros 1,000 times
RATIO_COUNTS_FROM = 256 * MIB
BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
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
            DataError: If the file is no gzip, is damaged, or unpacks to more than ``MAX_RATIO`` times its size.
        """
        try:
            data = self.file.read(size)
        except (OSError, EOFError) as error:
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


def open_bytes(path: Path, packed: bool) -> contextlib.closing[BinaryIO | BoundedGzip]:
    """Open a file for reading its (unpacked) bytes."""
    return contextlib.closing(BoundedGzip(path) if packed else path.open("rb"))


def chunks(path: Path, packed: bool) -> Iterator[bytes]:
    """Yield a file in pieces of some megabytes, without a byte order mark.

    Raises:
        DataError: If the file is UTF-16, or a bad gzip file.
    """
    with open_bytes(path, packed) as stream:
        first = True
        while data := stream.read(CHUNK):
            if first:
                if name := BYTE_ORDER_MARKS.get(data[:2]):
                    raise DataError(f"{path}: is {name}; give --encoding {name.lower()}")
                data, first = data.removeprefix(b"\xef\xbb\xbf"), False
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
            raise DataError(
                f"{path}: line {number + 1}: longer than {MAX_ROW // MIB} MiB; a JSONL file has one row on each line"
            )
    if rest:
        yield rest


def recode(path: Path, packed: bool, encoding: str) -> Iterator[str]:
    """Yield the text of a file in another encoding than UTF-8, line by line.

    Raises:
        DataError: If the encoding is unknown or a line is not in it.
    """
    import io

    with open_bytes(path, packed) as stream:
        raw = stream.file if packed else stream
        try:
            text = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
        except LookupError as error:
            raise DataError(f"--encoding {encoding}: not known; for Chinese files try gb18030") from error
        number = 0
        try:
            while line := text.readline(MAX_ROW):
                number += 1
                yield line
        except UnicodeError as error:
            raise DataError(f"{path}: line {number + 1}: is not {encoding} ({error})") from error


def check_zip(path: Path) -> None:
    """Refuse a damaged xlsx file, or one that unpacks to absurdly more than it is.

    Raises:
        DataError: In both cases.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
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
