"""The rows that one JSON object holds: itself, a list of rows in it, rows by their ids, or a table by columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.data.readers.files import DataError
from common.data.readers.record import Record, Say

# An object with one of these is a row itself, whatever lists it has (choices, tool descriptions, ...).
ROW_COLUMNS = {
    *("messages", "conversations", "conversation", "prompt", "question", "query", "instruction", "input", "problem"),
    *("text", "chosen", "rejected", "tools", "system"),
}
MOST_COLUMNS = 200


def rows_of_object(path: Path, record: Record, say: Say) -> Iterator[Record]:
    """Yield the rows in a file's only object.

    Args:
        path: The file, for errors.
        record: The object and its line.
        say: Called with what of the object is not a row.

    Raises:
        DataError: If it has several lists of rows, or nothing in it looks like rows.
    """
    whole = record.row
    values = list(whole.values())
    if table := _by_columns(whole):
        yield from (Record(number, row) for number, row in enumerate(table, 1))
    elif ROW_COLUMNS.intersection(name.lower() for name in whole) or not values:
        yield record
    elif lists := [name for name, value in whole.items() if _is_list_of_rows(value)]:
        yield from _listed(path, whole, lists, say)
    elif all(type(value) is dict and value and not _is_message(value) for value in values):
        if len(values) == 1 and all(type(value) is dict for value in values[0].values()):
            yield from rows_of_object(path, Record(record.place, values[0]), say)  # {"data": {"id1": {...}, ...}}
            return
        say(f"{path.name}: the rows are the values of one object; their keys are the column key")
        named = (value if "key" in value else {"key": name, **value} for name, value in whole.items())
        yield from (Record(number, row) for number, row in enumerate(named, 1))
    elif len(values) > MOST_COLUMNS:
        raise DataError(
            f"{path}: holds one object with {len(values):,} keys ({', '.join(list(whole)[:3])[:80]}, ...) and no rows; "
            'give a list [{...}, ...], one object a line, or {"id": {...}, ...}'
        )
    else:
        yield record


def _listed(path: Path, whole: dict[str, Any], lists: list[str], say: Say) -> Iterator[Record]:
    if len(lists) > 1:
        shown = ", ".join(lists[:5]) + (", ..." if len(lists) > 5 else "")
        raise DataError(f"{path}: holds {len(lists)} lists of rows ({shown}); save each as a file")
    others = [name for name in whole if name != lists[0]]
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        say(f"{path.name}: the rows are the list {lists[0]}; next to it, not read: {shown}")
    for number, row in enumerate(whole[lists[0]], 1):
        if type(row) is dict:
            yield Record(number, row)
        else:
            yield Record(number, None, f"{lists[0]}: holds {type(row).__name__}; each must be an object {{...}}")


def _by_columns(whole: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of a table that is stored by its columns, as pandas and ``datasets`` do; None when it is none."""
    values = list(whole.values())
    if {"columns", "data"} <= whole.keys() <= {"columns", "index", "data"}:  # pandas, orient="split"
        return _split(whole["columns"], whole["data"])
    if values and all(type(value) is dict and value for value in values):  # pandas, orient="columns"
        keys = values[0].keys()
        if all(key.isdigit() for key in keys) and all(value.keys() == keys for value in values):
            return [{name: value[key] for name, value in whole.items()} for key in keys]
    if len(values) > 1 and all(type(value) is list and value for value in values):
        same = len({len(value) for value in values}) == 1
        if same and not all(_is_list_of_rows(value) or _is_message(value[0]) for value in values):
            return [dict(zip(whole, cells, strict=True)) for cells in zip(*values, strict=True)]
    return None


def _split(columns: Any, data: Any) -> list[dict[str, Any]] | None:
    """Rows of lists of values and their columns; None when they are something else under these names."""
    if type(columns) is not list or type(data) is not list or not all(type(name) in (str, int) for name in columns):
        return None
    if not all(type(cells) is list and len(cells) == len(columns) for cells in data):
        return None
    names = [str(name) for name in columns]  # pandas numbers columns without names
    return [dict(zip(names, cells, strict=True)) for cells in data]


def _is_list_of_rows(value: Any) -> bool:
    return type(value) is list and bool(value) and type(value[0]) is dict and not _is_message(value[0])


def _is_message(value: Any) -> bool:
    return type(value) is dict and ("role" in value or "from" in value)
