"""The numbers of a run as rows, read from its metrics files while an answer is being sent.

Held is only where each line is, 24 bytes a line, and it is kept for the next question. So the first byte of a long
run's answer comes at once, and its memory does not grow with the run.
"""

from __future__ import annotations

import os
import re
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import orjson

from common.csv_text import csv_cell
from common.files import open_regular
from common.metrics.names import BY_NAME, friendly
from common.run_dir import TRAINED, metrics_files, read_record
from common.tail import MAX_LINE
from monitor.columns import Columns
from monitor.metrics_collector import RunMetrics
from monitor.plain import plain

ROWS = 1_000  # given at a time
MAX_RUNS = 64  # whose places are kept
Source = Literal["train", "validation", "all"]
Data = dict[str, float]
_HEAD = re.compile(rb'\{"step": ?(-?\d{1,15}),')
_TRAINED = tuple(f'"{name}'.encode() for name in TRAINED)


@dataclass(frozen=True)
class Wanted:
    """What of a run's numbers is asked for.

    Args:
        source: Steps that trained (with the validations of those steps), that were validated, or all.
        names: Only these; empty: the kit's names, and others without a slash.
        raw: The trainer's own names instead.
    """

    source: Source = "train"
    names: Sequence[str] = ()
    raw: bool = False

    def rows(self, records: Iterable[tuple[int, Data]]) -> Iterator[dict]:
        """The rows of steps and their numbers."""
        return (row for step, data in records if (row := self._row(step, data)) is not None)

    def _row(self, step: int, data: Data) -> dict | None:
        """A row; None for one that the source does not have, or that would be empty."""
        named = {**{name: value for name, value in data.items() if "/" not in name}, **friendly(data)}
        if self.source != "all" and (self.source == "validation") not in map(_validates, named or data):
            return None
        if self.names:
            found = {name: (named if name in BY_NAME else data).get(name) for name in self.names}
            return {"step": step, **{name: value for name, value in found.items() if value is not None}}
        chosen = data if self.raw else named
        return {"step": step, **chosen} if chosen else None


class _File:
    """Where the records of one metrics file are.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.steps, self.offsets, self.lengths = array("q"), array("q"), array("q")
        self.trained_from: int | None = None  # its smallest step that trained
        self._end, self._inode = 0, -1

    def look(self) -> None:
        """Takes in what was written since the last look; a file that is another one now is read from its beginning."""
        with open_regular(self.path) as raw, open(raw.fileno(), "rb", closefd=False) as stream:
            found = os.fstat(raw.fileno())
            if found.st_ino != self._inode or found.st_size < self._end:
                self.__init__(self.path)
                self._inode = found.st_ino
            stream.seek(self._end)
            for line in _whole_lines(stream):
                self._add(line)
                self._end += len(line)

    def _add(self, line: bytes) -> None:
        head = _HEAD.match(line)
        record = None if head or len(line) > MAX_LINE else read_record(line)
        step = int(head[1]) if head else record["step"] if record else None
        if step is None:
            return
        self.steps.append(step)
        self.offsets.append(self._end)
        self.lengths.append(len(line))
        if any(name in line for name in _TRAINED):
            self.trained_from = step if self.trained_from is None else min(step, self.trained_from)


class RunRows:
    """The rows of one run over its attempts; a later attempt replaces what earlier ones did from its first step on.

    Args:
        folder: The run directory.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._files: dict[Path, _File] = {}
        self._lock = threading.Lock()

    def places(self) -> tuple[list[Path], np.ndarray]:
        """The metrics files, and where their records are.

        Returns:
            The files, and a table of int64 with a line per record and the columns step, number of the file, offset and
            length in bytes; by step, those of one step in the order in which they were written.
        """
        with self._lock:
            paths = metrics_files(self.folder)
            self._files = {path: self._files.get(path) or _File(path) for path in paths}
            parts, before = [np.empty((0, 4), np.int64)], None
            for number in reversed(range(len(paths))):
                file = self._files[paths[number]]
                file.look()
                columns = [np.array(one, np.int64) for one in (file.steps, file.offsets, file.lengths)]
                part = np.column_stack([columns[0], np.full(len(columns[0]), number), *columns[1:]])
                parts.append(part if before is None else part[part[:, 0] < before])
                if file.trained_from is not None:
                    before = file.trained_from if before is None else min(before, file.trained_from)
        table = np.concatenate(parts[::-1])
        return paths, table[np.argsort(table[:, 0], kind="stable")]

    def records(self) -> Iterator[tuple[int, Data]]:
        """Step and numbers under the trainer's own names, oldest first."""
        yield from _read(*self.places())

    def of(self, steps: Iterable[int]) -> dict[int, Data]:
        """The numbers of some steps."""
        paths, table = self.places()
        return dict(_read(paths, table[np.isin(table[:, 0], list(steps))]))

    def rows(self, wanted: Wanted, after: int | None, last: int | None) -> Iterator[dict]:
        """Rows ``{"step": n, name: value}``, oldest first.

        Args:
            wanted: What a row has.
            after: Only later steps.
            last: Only so many at the end.
        """
        paths, table = self.places()
        if after is not None:
            table = table[table[:, 0] > after]
        if last is not None:
            table = _end_with(table, last, lambda part: [row["step"] for row in wanted.rows(_read(paths, part))])
        return wanted.rows(_read(paths, table))


class ReadRows:
    """The rows of a run that has no metrics file: from its console, or from TensorBoard's files.

    Args:
        metrics: Its numbers, read to their end; None before there are any.
    """

    def __init__(self, metrics: RunMetrics | None):
        self._columns = metrics.columns if metrics else Columns()
        self._lock = metrics.lock if metrics else nullcontext()

    def records(self) -> Iterator[tuple[int, Data]]:
        """As of `RunRows`."""
        with self._lock:
            series = {name: self._columns.series(name) for name in self._columns.names()}
        steps = np.unique(np.concatenate([np.empty(0, np.int64), *(own for own, _ in series.values())]))
        for start in range(0, len(steps), ROWS):
            part = steps[start : start + ROWS]
            found: list[Data] = [{} for _ in part]
            for name, (own, values) in series.items():
                first, end = np.searchsorted(own, [part[0], part[-1] + 1])
                places = np.searchsorted(part, own[first:end])
                for place, value in zip(places.tolist(), values[first:end].tolist(), strict=True):
                    found[place][name] = value
            yield from zip(part.tolist(), found, strict=True)

    def of(self, steps: Iterable[int]) -> dict[int, Data]:
        """As of `RunRows`."""
        chosen = set(steps)
        return {step: data for step, data in self.records() if step in chosen}

    def rows(self, wanted: Wanted, after: int | None, last: int | None) -> Iterator[dict]:
        """As of `RunRows`."""
        rows = wanted.rows(one for one in self.records() if after is None or one[0] > after)
        return rows if last is None else iter(deque(rows, maxlen=last))


class AllRows:
    """The rows of the runs that were asked for last."""

    def __init__(self) -> None:
        self._known: dict[Path, RunRows] = {}
        self._lock = threading.Lock()

    def of(self, folder: Path) -> RunRows | None:
        """Those of a run directory; None when no number is in a metrics file of it."""
        if not any(path.stat().st_size for path in metrics_files(folder)):
            return None
        with self._lock:
            found = self._known[folder] = self._known.pop(folder, None) or RunRows(folder)
            for old in list(self._known)[:-MAX_RUNS]:
                del self._known[old]
        return found


def unknown(records: Iterable[tuple[int, Data]], names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those names that are neither of the kit's table nor of the run.

    A run may yet get those of its first validation, and one that has written nothing may get any.

    Args:
        records: Of the run.
        names: That were asked for.

    Returns:
        The unknown names, and those that the run has.
    """
    left = [name for name in names if name not in {"step", *BY_NAME} and not name.startswith(("val-", "val/"))]
    seen: dict[str, None] = {}
    for _, data in records if left else ():
        seen.update(dict.fromkeys(data))
        left = [name for name in left if name not in data]
        if not left:
            break
    return (left if seen else []), list(seen)


def as_json(rows: Iterator[dict]) -> Iterator[bytes]:
    """An array of rows, some at a time, the first as soon as it is there."""
    before, many = b"[", 1
    while part := list(islice(rows, many)):
        yield before + orjson.dumps(part)[1:-1]
        before, many = b",", ROWS
    yield b"]" if before == b"," else b"[]"


def as_csv(records: Callable[[], Iterable[tuple[int, Data]]], names: Sequence[str]) -> Iterator[str]:
    """CSV with a column for each name and a line per step, empty where a step has no value.

    Args:
        records: Gives the records, twice where the names have to be found.
        names: The metrics to return; none for all that the trainer wrote.
    """
    columns = list(names) or sorted({name for _, data in records() for name in data})
    yield ",".join(["step", *map(csv_cell, columns)]) + "\n"
    rows = Wanted("all", columns).rows(records())
    while part := list(islice(rows, ROWS)):
        lines = ([row["step"], *(repr(row[name]) if name in row else "" for name in columns)] for row in part)
        yield "".join(",".join(map(str, line)) + "\n" for line in lines)


def _validates(name: str) -> bool:
    return bool(BY_NAME[name].validates) if name in BY_NAME else name.startswith(("val-", "val/"))


def _whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines that end; of one that is too long as much at a time, none of which is a record."""
    while line := stream.readline(MAX_LINE + 1):
        if not line.endswith(b"\n") and len(line) <= MAX_LINE:
            return  # still being written
        yield line


def _read(paths: Sequence[Path], table: np.ndarray) -> Iterator[tuple[int, Data]]:
    with ExitStack() as stack:
        files = {number: stack.enter_context(open_regular(paths[number])) for number in np.unique(table[:, 1]).tolist()}
        now, together = None, {}
        for start in range(0, len(table), ROWS):
            for step, number, offset, length in table[start : start + ROWS].tolist():
                record = read_record(os.pread(files[number].fileno(), length, offset))
                if step != now and together:
                    yield now, together
                    together = {}
                now = step
                together = {**together, **_numbers(record["data"])} if record else together
        if together:
            yield now, together


def _numbers(data: dict[str, Any]) -> Data:
    """What of a record is a number; null is the NaN of trainers."""
    found = {}
    for name, value in data.items():
        if value is None or isinstance(value, (int, float)):
            try:
                found[name if name.isascii() else plain(name)] = float("nan") if value is None else float(value)
            except OverflowError:
                continue
    return found


def _end_with(table: np.ndarray, wanted: int, steps_of: Callable[[np.ndarray], list[int]]) -> np.ndarray:
    """The end of a table that gives so many rows (all of it when there are fewer); looks from the end backwards."""
    start, found = len(table), deque[int]()
    while start > 0 and len(found) < wanted:
        end = start
        place = max(0, end - min(ROWS, max(20, wanted - len(found))))
        start = _first_of(table, table[place, 0])
        found.extendleft(reversed(steps_of(table[start:end])))
    return table[_first_of(table, found[-wanted]) :] if len(found) > wanted else table[start:]


def _first_of(table: np.ndarray, step: int) -> int:
    return int(np.searchsorted(table[:, 0], step, "left"))
