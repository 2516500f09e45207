"""Rows into parquet, in batches of one schema that holds only the fields that occur."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.files import DataError
from common.data.messages import OPTIONAL_KEYS, RowError

if TYPE_CHECKING:
    import pyarrow as pa

MESSAGE_COLUMNS = ("messages", "prompt", "chosen", "rejected")
TEXT_COLUMNS = ("data_source", "ability", "tools", "agent_name")


class Shape:
    """The fields that rows have, which grows as rows are seen.

    A field that no row has must not be in the file: it would come back as null in every message, and many chat
    templates only ask whether it is there.
    """

    def __init__(self) -> None:
        self.columns: dict[str, None] = {}
        self.message_keys: set[str] = set()
        self.extra: dict[str, pa.DataType] = {}

    def grow(self, rows: Iterable[dict[str, Any]]) -> bool:
        """Take in some rows; returns whether there was something new.

        Raises:
            RowError: If a field of ``extra_info`` cannot hold what the rows have in it.
        """
        rows = list(rows)
        before = (len(self.columns), len(self.message_keys), dict(self.extra))
        columns = {name for row in rows for name in row}
        for name in sorted(columns - self.columns.keys(), key=_ORDER.get):
            self.columns[name] = None
        for name in columns.intersection(MESSAGE_COLUMNS):
            for row in rows:
                for message in row.get(name) or ():
                    if len(message) > 2:
                        self.message_keys.update(message)
        if "extra_info" in columns:
            self._grow_extra([row["extra_info"] for row in rows])
        return before != (len(self.columns), len(self.message_keys), self.extra)

    def _grow_extra(self, extras: list[dict[str, Any]]) -> None:
        import pyarrow as pa

        for name in dict.fromkeys(name for extra in extras for name in extra):  # in the order of the rows
            try:
                found = pa.infer_type([extra.get(name) for extra in extras])
                if name in self.extra and found != self.extra[name]:
                    both = [pa.schema([(name, self.extra[name])]), pa.schema([(name, found)])]
                    found = pa.unify_schemas(both, promote_options="permissive").field(name).type
            except (pa.ArrowException, UnicodeEncodeError) as error:
                raise RowError(f"extra_info.{name}: rows hold values of different kinds ({error})") from None
            self.extra[name] = found

    def schema(self) -> pa.Schema:
        """The schema of a file that can hold all rows seen."""
        import pyarrow as pa

        text = pa.string()
        function = pa.struct([("name", text), ("arguments", text)])
        calls = pa.list_(pa.struct([("id", text), ("type", text), ("function", function)]))
        fields = [("role", text), ("content", text)]
        fields += [(key, text) for key in OPTIONAL_KEYS if key in self.message_keys]
        fields += [("tool_calls", calls)] if "tool_calls" in self.message_keys else []
        types = dict.fromkeys(TEXT_COLUMNS, text) | dict.fromkeys(MESSAGE_COLUMNS, pa.list_(pa.struct(fields)))
        types["reward_model"] = pa.struct([("style", text), ("ground_truth", text)])
        types["extra_info"] = pa.struct(list(self.extra.items()))
        types |= dict.fromkeys(("enable_thinking", "self_play"), pa.bool_())
        return pa.schema([(name, types[name]) for name in self.columns])


_ORDER = {
    name: position
    for position, name in enumerate(
        (
            *("messages", "data_source", "prompt", "chosen", "rejected", "tools", "enable_thinking"),
            *("ability", "reward_model", "extra_info", "agent_name", "self_play"),
        )
    )
}


class TableWriter:
    """A parquet file that grows batch by batch; the file is there only after the first batch."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.path, self.schema, self.rows, self._file = path, schema, 0, None

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows.

        Raises:
            DataError: If a row cannot be stored; see ``storable``.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pa.Table.from_pylist(rows, schema=self.schema)
        except (pa.ArrowException, UnicodeEncodeError) as error:
            raise DataError(str(error)) from error
        self._file = self._file or pq.ParquetWriter(self.path, self.schema, compression="zstd")
        self._file.write_table(table)
        self.rows += len(rows)

    def close(self) -> None:
        """Finish the file."""
        if self._file:
            self._file.close()


def storable(row: dict[str, Any], schema: pa.Schema) -> str | None:
    """Return why a row cannot be stored (half of a surrogate pair, a number that is too large), or None."""
    import pyarrow as pa

    for field in schema:
        try:
            pa.array([row.get(field.name)], type=field.type)
        except UnicodeEncodeError:
            return f"{field.name}: holds half of a surrogate pair (a broken emoji)"
        except pa.ArrowException as error:
            return f"{field.name}: {error}"
    return None
