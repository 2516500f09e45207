"""What became of the rows of a conversion or a validation, for people."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 5  # places that are shown for each kind of problem


@dataclass(frozen=True)
class Bad:
    """A row that cannot be used.

    Args:
        file: Where it is.
        place: Line or row, from 1.
        problem: ``field: reason``.
        row: The row, or None when it could not be read.
    """

    file: Path
    place: int
    problem: str
    row: dict[str, Any] | None

    def as_json(self) -> str:
        """One line of a file of bad rows."""
        shown = {"file": self.file.name, "place": self.place, "problem": self.problem, "row": self.row}
        return json.dumps(shown, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace").decode()


class BadFile:
    """A JSONL file of bad rows, which is there only when there are some."""

    def __init__(self, path: Path):
        self.path, self.rows, self._stream = path, 0, None

    def write(self, bad: Bad) -> None:
        """Append a row."""
        self._stream = self._stream or self.path.open("w", encoding="utf-8")
        self._stream.write(bad.as_json() + "\n")
        self.rows += 1

    def __enter__(self) -> BadFile:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._stream:
            self._stream.close()


@dataclass
class Report:
    """Counts of rows; every row read was written, is bad, or is a duplicate.

    Args:
        read: Rows read.
        written: Rows written, by file.
        bad: The first ``SHOWN`` bad rows of each kind.
        problems: How many bad rows there are of each kind.
        duplicates: Rows left out since they were there already.
        notes: Things that a person may want to know, with the number of rows.
        stopped: Whether reading ended at ``--max-rows``.
        on_bad: Called with every bad row, e.g. to write it to a file.
        said: What was guessed, a sentence each.
        prompts: For gspo: rows that the model is to answer.
    """

    read: int = 0
    written: dict[Path, int] = field(default_factory=dict)
    bad: list[Bad] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    stopped: bool = False
    on_bad: Callable[[Bad], None] | None = None
    said: list[str] = field(default_factory=list)
    prompts: int = 0
    _forms: set[tuple[Any, ...]] = field(default_factory=set)
    _last: Any = None

    def say(self, sentence: str) -> None:
        """Keep a sentence about what was guessed, once."""
        if sentence not in self.said:
            self.said.append(sentence)

    def take_form(self, path: Path, example: Any) -> None:
        """Say once for each kind of row of a file which columns it was read from."""
        if example.view.plain and example.view.origin is self._last:  # as the row before
            return
        self._last = example.view.origin if example.view.plain else None
        names = example.view.used
        key = (path, example.form, len(names), *names)
        if key in self._forms:
            return
        self._forms.add(key)
        if len(self._forms) <= SHOWN:
            parts = (f"{name} = {example.view.called(name)}" for name in example.view.origin if name in names)
            self.say(f"{path.name}: read as {example.form}: {', '.join(parts)}")

    def add_bad(self, bad: Bad) -> None:
        """Count a bad row, and remember it when it is one of the first of its kind."""
        word = kind(bad.problem)
        self.problems[word] += 1
        if self.problems[word] <= SHOWN:
            self.bad.append(bad)
        if self.on_bad:
            self.on_bad(bad)

    @property
    def rows_bad(self) -> int:
        """Number of rows that cannot be used."""
        return self.problems.total()

    @property
    def rows_written(self) -> int:
        """Number of good rows written, to all files."""
        return sum(rows for path, rows in self.written.items() if path.suffix == ".parquet")

    def show(self, console: Console) -> None:
        """Print the counts, and for each kind of problem the first places."""
        from rich.markup import escape

        from common.data.readers.records import place_word

        for path, rows in self.written.items():
            console.print(f"[green]{escape(str(path))}[/green]: {rows:,} rows", soft_wrap=True)
        parts = [f"{self.read:,} rows read"]
        parts += [f"{self.duplicates:,} repeated"] if self.duplicates else []
        parts += [f"[red]{self.rows_bad:,} bad[/red]"] if self.rows_bad else []
        parts += ["stopped at --max-rows"] if self.stopped else []
        console.print(", ".join(parts))
        for problem, count in self.problems.most_common(20):
            places = [bad for bad in self.bad if kind(bad.problem) == problem]
            for bad in places:
                where = f"{bad.file.name}: {place_word(bad.file)} {bad.place}"
                console.print(f"  [red]bad:[/red] {escape(where)}: {escape(bad.problem)}", soft_wrap=True)
            if count > len(places):
                console.print(f"       and {count - len(places):,} more like these")
        if len(self.problems) > 20:
            console.print(f"  and {len(self.problems) - 20} more kinds")
        for sentence in self.said:
            console.print(f"  {escape(sentence)}", soft_wrap=True)
        for note, count in self.notes.most_common():
            console.print(f"  [yellow]note:[/yellow] {escape(note)} ({count:,} rows)", soft_wrap=True)


def kind(problem: str) -> str:
    """A problem without the parts that differ from row to row, so that equal ones can be counted."""
    return re.sub(r"'[^']*'|\b\d[\d,.]*\b|\(.*\)", "…", problem)[:120]
