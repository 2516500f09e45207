"""Rows into parquet, in batches of one schema that holds only the fields that occur."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.messages import OPTIONAL_KEYS, RowError
from common.data.readers.files import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MESSAGE_COLUMNS = ("messages", "prompt", "chosen", "rejected", "completion")
TEXT_COLUMNS = ("text", "data_source", "ability", "tools", "agent_name")


class _Mixed(ValueError):
    """Values of one field have several kinds."""


class Shape:
    """The fields that rows have, which grows as rows are seen.

    A field that no row has must not be in the file: it would come back as null in every message, and many chat
    templates only ask whether it is there.

    Attributes:
        several_truths: Whether a row has several accepted answers; ``ground_truth`` is then a list in every row, so
            that a file has one type.
        as_text: Fields of ``extra_info`` that are numbers in some rows and texts in others, and are stored as texts.
    """

    def __init__(self) -> None:
        self.columns: dict[str, None] = {}
        self.message_keys: set[str] = set()
        self.several_truths = False
        self.as_text: set[str] = set()
        self.extra: dict[str, pa.DataType] = {}

    def grow(self, rows: Iterable[dict[str, Any]]) -> bool:
        """Take in some rows; returns whether there was something new.

        Raises:
            RowError: If a field of ``extra_info`` cannot hold what the rows have in it.
        """
        rows = list(rows)
        before = (len(self.columns), len(self.message_keys), self.several_truths, dict(self.extra))
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
        if "reward_model" in columns and not self.several_truths:
            truths = [row["reward_model"]["ground_truth"] for row in rows if row.get("reward_model")]
            self.several_truths = any(type(truth) is list and len(truth) > 1 for truth in truths)
        return before != (len(self.columns), len(self.message_keys), self.several_truths, self.extra)

    def _grow_extra(self, extras: list[dict[str, Any]]) -> None:
        import pyarrow as pa

        for name in dict.fromkeys(name for extra in extras for name in extra):  # in the order of the rows
            values, known = [extra.get(name) for extra in extras], self.extra.get(name)
            try:
                self.extra[name] = self._type_of(name, values)
            except UnicodeEncodeError:  # half of a surrogate pair; writing names the row
                self.extra[name] = known or pa.string()
            except (pa.ArrowException, _Mixed) as error:
                nested = any(isinstance(value, dict | list) for value in values)
                if nested or (known and pa.types.is_nested(known)):
                    raise RowError(f"extra_info.{name}: rows hold values of different kinds ({error})") from None
                self.as_text.add(name)
                self.extra[name] = pa.string()

    def _type_of(self, name: str, values: list[Any]) -> pa.DataType:
        import pyarrow as pa

        if name in self.as_text:
            return pa.string()
        kinds = {type(value) for value in values} - {type(None)}
        if len(kinds) > 1 and kinds != {int, float}:  # pyarrow would take the type of the first
            raise _Mixed(" and ".join(sorted(kind.__name__ for kind in kinds)))
        found, known = pa.infer_type(values), self.extra.get(name)
        if known is None or known == found:
            return found
        both = [pa.schema([(name, known)]), pa.schema([(name, found)])]
        return pa.unify_schemas(both, promote_options="permissive").field(name).type

    def schema(self) -> pa.Schema:
        """The schema of a file that can hold all rows seen."""
        import pyarrow as pa

        text = pa.string()
        truth = pa.list_(text) if self.several_truths else text
        function = pa.struct([("name", text), ("arguments", text)])
        calls = pa.list_(pa.struct([("id", text), ("type", text), ("function", function)]))
        fields = [("role", text), ("content", text)]
        fields += [(key, text) for key in OPTIONAL_KEYS if key in self.message_keys]
        fields += [("weight", pa.float64())] if "weight" in self.message_keys else []
        fields += [("tool_calls", calls)] if "tool_calls" in self.message_keys else []
        types = dict.fromkeys(TEXT_COLUMNS, text) | dict.fromkeys(MESSAGE_COLUMNS, pa.list_(pa.struct(fields)))
        types["reward_model"] = pa.struct([("style", text), ("ground_truth", truth)])
        types["extra_info"] = pa.struct(list(self.extra.items()))
        types |= dict.fromkeys(("enable_thinking", "self_play", "label"), pa.bool_())
        types["margin"] = pa.float64()
        return pa.schema([(name, types[name]) for name in self.columns])


_ORDER = {
    name: position
    for position, name in enumerate(
        (
            *("text", "messages", "data_source", "prompt", "chosen", "rejected", "completion", "label", "margin"),
            *("tools", "enable_thinking"),
            *("ability", "reward_model", "extra_info", "agent_name", "self_play"),
        )
    )
}


class TableWriter:
    """A parquet file that grows batch by batch; the file is there only after the first batch."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.path, self.schema, self.rows, self._file = path, schema, 0, None
        self._fit, self._listed = _fitting(schema), _has_lists_of_truths(schema)

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows.

        Raises:
            DataError: If a row cannot be stored; see ``storable``.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            if self._listed:  # pyarrow would take a text for a list of its characters
                rows = [self._fit(row) for row in rows]
            table = pa.Table.from_pylist(rows, schema=self.schema)
        except (pa.ArrowException, UnicodeEncodeError):  # a value of another type than its column, or one that is bad
            try:
                table = pa.Table.from_pylist([self._fit(row) for row in rows], schema=self.schema)
            except (pa.ArrowException, UnicodeEncodeError) as error:
                raise DataError(str(error)) from error
        self._file = self._file or pq.ParquetWriter(self.path, self.schema, compression="zstd")
        self._file.write_table(table)
        self.rows += len(rows)

    def close(self) -> None:
        """Finish the file."""
        if self._file:
            self._file.close()


def _fitting(schema: pa.Schema) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that puts a row's ground truth and ``extra_info`` into the types of a file."""
    import pyarrow as pa

    listed = _has_lists_of_truths(schema)
    extra_fields = schema.field("extra_info").type if "extra_info" in schema.names else ()
    texts = [field.name for field in extra_fields if field.type == pa.string()]

    def fit(row: dict[str, Any]) -> dict[str, Any]:
        scored = row.get("reward_model")
        if scored and (type(scored.get("ground_truth")) is list) != listed:
            row = {**row, "reward_model": {**scored, "ground_truth": _counted(scored.get("ground_truth"), listed)}}
        extra = row.get("extra_info")
        if extra and texts:
            others = {name: extra.get(name) for name in texts if type(extra.get(name)) is not str}
            if made := {name: str(value) for name, value in others.items() if value is not None}:
                row = {**row, "extra_info": {**extra, **made}}
        return row

    return fit


def _has_lists_of_truths(schema: pa.Schema) -> bool:
    import pyarrow as pa

    return "reward_model" in schema.names and pa.types.is_list(schema.field("reward_model").type["ground_truth"].type)


def _counted(truth: Any, listed: bool) -> Any:
    """A ground truth as a list, or the only one of a list."""
    if listed:
        return [] if truth is None or truth == "" else [truth]
    return truth[0] if len(truth) == 1 else None if not truth else truth


def storable(row: dict[str, Any], schema: pa.Schema) -> str | None:
    """Return why a row cannot be stored (half of a surrogate pair, a number that is too large), or None."""
    import pyarrow as pa

    row = _fitting(schema)(row)
    for field in schema:
        try:
            pa.array([row.get(field.name)], type=field.type)
        except UnicodeEncodeError:
            return f"{field.name}: holds half of a surrogate pair (a broken emoji)"
        except pa.ArrowException as error:
            return f"{field.name}: {error}"
    return None
