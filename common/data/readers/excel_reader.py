"""Rows of an Excel file (xlsx), one sheet of it."""

from __future__ import annotations

import datetime
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.readers import files
from common.data.readers.files import MIB, DataError
from common.data.readers.record import Record, Say, count, numbered, repeated

if TYPE_CHECKING:
    from openpyxl import Workbook
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet

_FORMULA = re.compile(rb"<(?:\w+:)?f[ >/]")
_MERGED = re.compile(rb"<(?:\w+:)?mergeCell [^>]*?ref=\"([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})\"")
ERRORS = {"#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A", "#SPILL!", "#CALC!", "#FIELD!"}
MOST_ROWS = 1_048_576  # of a sheet, says Excel
MOST_CELLS = 20_000_000  # that a sheet's rows are wide together, where that is more than the sheet's bytes
NO_RESULT = object()  # marks a cell whose formula was never computed
SAVE_AGAIN = "open the file in Excel or LibreOffice, save it, and try again"
_Filled = tuple[int, tuple[Any, ...]]  # number and values of a row that is not empty
_OVERLAP = 200  # bytes; no mark is longer


def excel_rows(path: Path, packed: bool, header: bool, sheet: str | int | None, say: Say) -> Iterator[Record]:
    """Yield the rows of a sheet, empty ones left out.

    Values that Excel does not hold as what a person sees are put right: whole numbers as integers, others with the 15
    digits that Excel shows, dates as ISO texts, and a value merged over several rows is in each of them.
    See ``readers.read_records``.
    """
    if packed:
        raise DataError(f"{path}: xlsx is compressed by itself; unpack it with gunzip")
    files.check_zip(path)
    book = _open(path, data_only=True)
    formulas = None
    try:
        chosen = _sheet(path, book, sheet)
        if sheet is None:
            _name_others(path, book, chosen, header, say)
        try:
            has_formulas, merged = _marks(path, chosen)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"{path}: sheet {chosen.title}: is damaged ({error}); {SAVE_AGAIN}") from error
        rows = _values(chosen)
        if has_formulas:
            formulas = _open(path, data_only=False)
            rows = _without_result(chosen, formulas[chosen.title])
        yield from _Table(path, header, merged, say).records(_bounded(path, chosen, rows))
    finally:
        book.close()
        if formulas:
            formulas.close()


def _open(path: Path, data_only: bool) -> Workbook:
    import openpyxl

    try:
        return openpyxl.load_workbook(path, read_only=True, data_only=data_only)
    except Exception as error:  # openpyxl lets errors of its XML parser through
        raise DataError(f"{path}: not a whole xlsx file ({type(error).__name__}: {error})") from error


def _sheet(path: Path, book: Workbook, chosen: str | int | None) -> ReadOnlyWorksheet:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    if not sheets:
        raise DataError(f"{path}: has no sheet with cells")
    if chosen is None:
        return book.worksheets[0]
    if chosen in sheets:
        return sheets[chosen]
    if str(chosen).isdigit() and 1 <= int(chosen) <= len(sheets):
        return book.worksheets[int(chosen) - 1]
    raise DataError(f"{path}: --sheet {chosen}: not there; there are {', '.join(sheets)} (or 1 to {len(sheets)})")


def _name_others(path: Path, book: Workbook, chosen: ReadOnlyWorksheet, header: bool, say: Say) -> None:
    for sheet in book.worksheets:
        if sheet.title == chosen.title:
            continue
        filled = sum(
            1 for values in _bounded(path, sheet, _values(sheet)) if any(value is not None for value in values)
        )
        if filled > header:
            rows = count(filled - header, "row")
            say(f"{path.name}: only the sheet {chosen.title} is read; {sheet.title} ({rows}) is left out, see --sheet")


def _values(sheet: ReadOnlyWorksheet) -> Iterator[tuple[Any, ...]]:
    sheet.reset_dimensions()  # what a file says of its size is often wrong, and cells outside it would be lost
    return sheet.iter_rows(values_only=True)


def _bounded(path: Path, sheet: ReadOnlyWorksheet, rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """The rows of a sheet, which openpyxl fills up to whatever row and column a file names.

    Raises:
        DataError: If there are more rows than Excel has, far more empty cells than the file can hold, longer texts
            than ``files.RowBudget`` lets pass, or something that openpyxl cannot read.
    """
    budget, cells, number = files.RowBudget(path), 0, 0
    with zipfile.ZipFile(path) as archive:
        most = max(MOST_CELLS, archive.getinfo(sheet._worksheet_path).file_size)
    place = f"{path}: sheet {sheet.title}"
    try:
        for number, values in enumerate(rows, 1):
            if number > MOST_ROWS:
                raise DataError(f"{place}: names a row behind {MOST_ROWS:,}, the last that Excel has; {SAVE_AGAIN}")
            if not values:  # openpyxl makes up the rows before a row far down; a million of them should take no second
                yield values
                continue
            cells += len(values)
            if cells > most:
                raise DataError(
                    f"{place}: row {number}: the rows up to it have {cells:,} cells, nearly all of them empty; delete "
                    f"the columns behind the last one that is used (this row has {len(values):,})"
                )
            budget.take(1, sum(len(value) for value in values if type(value) is str))
            yield values
    except DataError:
        raise
    except Exception as error:  # openpyxl lets errors of its XML parser, of numbers and of dates through
        raise DataError(f"{place}: cannot be read behind row {number} ({error}); {SAVE_AGAIN}") from error


def _marks(path: Path, sheet: ReadOnlyWorksheet) -> tuple[bool, list[tuple[int, int, int]]]:
    """Whether a sheet has formulas, and the first row, last row and column (from 1) of cells merged over rows."""
    from openpyxl.utils import column_index_from_string

    has_formulas, merged, rest = False, {}, b""
    with zipfile.ZipFile(path) as archive, archive.open(sheet._worksheet_path) as stream:
        while data := stream.read(MIB):
            text = rest + data
            has_formulas = has_formulas or bool(_FORMULA.search(text))
            for left, top, _, bottom in _MERGED.findall(text) if b"mergeCell" in text else ():
                if top != bottom:
                    merged[column_index_from_string(left.decode()), int(top)] = int(bottom)
            rest = text[-_OVERLAP:]
    return has_formulas, [(top, bottom, column) for (column, top), bottom in merged.items()]


def _without_result(results: ReadOnlyWorksheet, formulas: ReadOnlyWorksheet) -> Iterator[tuple[Any, ...]]:
    """Values of cells, ``NO_RESULT`` for those that have a formula and no result."""
    for sheet in (results, formulas):
        sheet.reset_dimensions()
    for cells, others in zip(results.iter_rows(), formulas.iter_rows(), strict=True):
        yield cells and tuple(
            NO_RESULT if other.data_type == "f" and cell.value is None and cell.data_type == "n" else cell.value
            for cell, other in zip(cells, others, strict=True)
        )


class _Table:
    """Rows of one sheet as they are read."""

    def __init__(self, path: Path, header: bool, merged: list[tuple[int, int, int]], say: Say):
        self.path, self.header, self.say = path, header, say
        self.merged: dict[int, list[tuple[int, int]]] = {}  # first row: last row and position
        for top, bottom, column in merged:
            self.merged.setdefault(top, []).append((bottom, column - 1))
        self.spanning: dict[int, tuple[int, Any]] = {}  # position: last row and value of a merged cell
        self.said: set[str] = set()
        self.names: list[str] = []
        self.nameless: set[int] = set()

    def records(self, rows: Iterator[tuple[Any, ...]]) -> Iterator[Record]:
        """Yield the rows below the header, each with its number."""
        filled = (
            (number, values)
            for number, values in enumerate(rows, 1)
            if values and any(value is not None for value in values)
        )
        first = next(filled, None)
        if first is None:
            raise DataError(f"{self.path}: the sheet is empty; choose another with --sheet")
        if self.header:
            filled = self._without_title(first, filled)
            self._read_names(*next(filled))
        else:
            filled = chain([first], filled)
        for number, values in filled:
            yield self._record(number, self._with_merged(number, values) if self.merged else values)

    def _without_title(self, first: _Filled, others: Iterator[_Filled]) -> Iterator[_Filled]:
        """The rows from the header on: people write a title above it, in one cell, and then several names."""
        second = next(others, None)
        if second is None:
            return iter([first])
        titles = [value for value in first[1] if value is not None]
        names = [value for value in second[1] if value is not None]
        if len(titles) == 1 and len(names) > 1 and all(type(name) is str for name in names):
            self._say_once(
                "title", f"row {first[0]} is taken for a title ({str(titles[0])[:40]!r}), not for the header"
            )
            return chain([second], others)
        return chain([first, second], others)

    def _read_names(self, number: int, values: tuple[Any, ...]) -> None:
        names = ["" if value is None else str(_as_seen(value)).strip() for value in values]
        if twice := repeated(names):
            raise DataError(
                f"{self.path}: row {number}: two columns have the same name: {', '.join(twice[:5])}; rename one"
                " (or give --no-header if this is not a header)"
            )
        self.names = [name or numbered(position) for position, name in enumerate(names, 1)]
        self.nameless = {position for position, name in enumerate(names) if not name}

    def _record(self, number: int, values: Sequence[Any]) -> Record:
        row = {name: None for position, name in enumerate(self.names) if position not in self.nameless}
        for position, value in enumerate(values):
            if value is None:
                continue
            for new in range(len(self.names), position + 1):  # wider than the rows before it
                self.names.append(numbered(new + 1))
                self.nameless |= {new} if self.header else set()
            name = self.names[position]
            if value is NO_RESULT:
                return Record(number, None, f"{name}: holds a formula without its result; {SAVE_AGAIN}")
            if position in self.nameless:
                self._say_once(name, f"column {position + 1} has no name in the header; it is called {name}")
            row[name] = self._value(name, value)
        return Record(number, row)

    def _with_merged(self, number: int, values: Sequence[Any]) -> list[Any]:
        """The values of a row, with those of merged cells that began above it."""
        made = list(values)
        for position, (bottom, value) in list(self.spanning.items()):
            if number > bottom:
                del self.spanning[position]
                continue
            made += [None] * (position + 1 - len(made))
            if made[position] is None:
                made[position] = value
                self._say_once("merged", "cells are merged over rows; each of the rows gets the value")
        for bottom, position in self.merged.get(number, ()):
            if position < len(values):
                self.spanning[position] = bottom, values[position]
        return made

    def _value(self, name: str, value: Any) -> Any:
        if type(value) is str and value in ERRORS:
            self._say_once(f"{name} {value}", f"{name}: cells with the Excel error {value} are taken as empty")
            return None
        seen = _as_seen(value)
        if type(seen) is str and type(value) is not str:
            self._say_once(
                f"{name} date", f"{name}: dates are written as {seen}; Excel makes dates of 1/2 and the like"
            )
        return seen

    def _say_once(self, key: str, sentence: str) -> None:
        if key not in self.said:
            self.said.add(key)
            self.say(f"{self.path.name}: {sentence}")


def _as_seen(value: Any) -> Any:
    """A cell's value as Excel shows it."""
    if type(value) is float:
        rounded = float(f"{value:.15g}")
        return int(rounded) if rounded.is_integer() else rounded
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return str(value)
    if type(value) is str and "_x" in value:
        from openpyxl.utils.escape import unescape  # Excel writes control characters as _x000D_

        return unescape(value)
    return value
