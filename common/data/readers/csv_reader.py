"""Rows of CSV and TSV files."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from common.data.readers import files
from common.data.readers.files import MAX_ROW, DataError
from common.data.readers.record import Record, Say, count, numbered, repeated

SEPARATORS = ",\t;"
RECORDS_TRIED = 50


def csv_rows(path: Path, packed: bool, encoding: str | None, header: bool, say: Say) -> Iterator[Record]:
    """Yield the rows of a CSV file whose values are separated by commas, tabs or semicolons.

    A row with more or fewer values than there are columns is named, never shifted; see ``readers.read_records``.
    """
    csv.field_size_limit(min(sys.maxsize, MAX_ROW))
    lines = _lines(files.text_lines(path, packed, encoding))
    head = list(islice(lines, RECORDS_TRIED))
    if not head or (header and not head[0].strip()):
        raise DataError(f"{path}: line 1: is empty; the first line must name the columns")
    skipped = 0
    if told := re.fullmatch(r"sep=(.)\s*", head[0]):  # Excel's own way to name the separator
        separator, head, skipped = told[1], head[1:], 1
    else:
        separator = _separator(head, ".tsv" in path.suffixes)
    rows = csv.reader(chain(head, lines), delimiter=separator, strict=True)
    try:
        yield from _rows(path, rows, header, separator, skipped, say)
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num + skipped}: {error}; is a quotation mark not closed?") from error


def _rows(path: Path, rows: Iterator[list[str]], header: bool, separator: str, skipped: int, say: Say):
    first = next(rows, [])
    names = _names(path, first) if header else [numbered(position) for position in range(1, len(first) + 1)]
    nameless = [name for name, value in zip(names, first, strict=True) if header and not value.strip()]
    if not header:
        yield Record(1 + skipped, dict(zip(names, first, strict=True)))
    start = rows.line_num + skipped + 1
    said = False
    for values in rows:
        if len(values) == len(names):
            row = dict(zip(names, values, strict=True))
            if nameless:  # a comma at the end of each line makes such a column, and it is empty
                empty = [name for name in nameless if not row[name]]
                if len(empty) < len(nameless) and not said:
                    say(f"{path.name}: columns without a name are called {', '.join(nameless)}, by their position")
                    said = True
                for name in empty:
                    del row[name]
            yield Record(start, row)
        elif values:
            problem = f"has {count(len(values), 'value')} for {count(len(names), 'column')}"
            more = len(values) > len(names)
            yield Record(start, None, problem + (f"; quote texts that hold {separator!r}" if more else ""))
        start = rows.line_num + skipped + 1


def _names(path: Path, first: list[str]) -> list[str]:
    names = [name.strip() or numbered(position) for position, name in enumerate(first, 1)]
    if twice := repeated(names):
        raise DataError(
            f"{path}: line 1: two columns have the same name: {', '.join(twice[:5])}; rename one "
            "(or give --no-header if this is not a header)"
        )
    return names


def _lines(text: Iterable[str]) -> Iterator[str]:
    r"""Lines that end with ``\n``, ``\r\n`` or ``\r`` alone (old Mac files), as the csv module needs them."""
    for line in text:
        if "\r" in line[:-2]:
            yield from re.split(r"(?<=\r)(?!\n)", line)
        else:
            yield line


def _separator(head: list[str], tabs_first: bool) -> str:
    """The separator that gives the first rows the same number of values, and the most of them."""
    widths = {separator: _widths(head, separator) for separator in SEPARATORS}
    if tabs_first and widths["\t"] and widths["\t"][0] > 1:
        return "\t"
    even = [separator for separator, found in widths.items() if found and len(set(found)) == 1 and found[0] > 1]
    if even:
        return max(even, key=lambda separator: widths[separator][0])
    first = re.sub(r'"[^"]*"', "", head[0])
    return max("\t,;", key=first.count)


def _widths(head: list[str], separator: str) -> list[int]:
    """Number of values of each of the first rows; none when they cannot be read with this separator."""
    widths = []
    rows = csv.reader(iter(head), delimiter=separator, strict=True)
    try:
        for values in rows:
            widths += [len(values)] if values else []
    except csv.Error:
        return widths if rows.line_num == len(head) else []  # at the end: a text over several lines was cut
    return widths
