"""What is in the log folder: run directories, plain logs, TensorBoard folders; one line of facts about each."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from common.files import read_regular
from common.metrics.names import HEADLINES
from common.run_dir import LOG_FILE, RUN_FILE, is_alive, metrics_files
from common.tail import Tail
from monitor.columns import Columns
from monitor.log_parser import LogParser
from monitor.metrics_collector import EVENT_FILES, RunMetrics
from monitor.plain import plain, plain_tree

MAX_RUNS = 2_000
MAX_ENTRIES = 20_000  # of one folder; more are not looked at, and the page says so
MAX_DEPTH = 3
MAX_FACT = 200  # characters of what run.json says in a word
PEEK = 64 << 10  # bytes at the end of a file that the table is made from
RECHECK_ENDED = 10.0  # seconds between two looks at a run that ended a while ago
QUIET_AFTER = 120.0  # seconds without a new byte after which a plain log, or a run of another machine, is not live
_INSIDE_A_RUN = {"checkpoints", "model", "rollouts", "validation", "tensorboard", "charts", "wandb", "swanlog"}
_INSIDE_A_RUN |= {"machines", "__pycache__"}
_LOG_NAMES = re.compile(r".+\.(?:log|txt|out|jsonl)")
_NO_LOG_NAMES = re.compile(r"requirements.*\.txt|train\.log|metrics(?:\.\d+)?\.jsonl")
# The first that a run has is shown; training first, which has a value at every step.
_VALUES = tuple(metric.name for metric in sorted(HEADLINES, key=lambda metric: bool(metric.validates)))


@dataclass
class Row:
    """One run in the table; numbers are None where they are not known, times are seconds since 1970."""

    id: str
    path: Path
    kind: str  # "run", "log" or "tensorboard"
    algorithm: str = ""
    model: str = ""
    state: str = "quiet"  # running, finished, failed, stopped, died; live or quiet without a run.json
    reason: str = ""
    step: int | None = None
    total: int | None = None
    metric: str = ""
    value: float | None = None
    step_time: float | None = None
    eta: float | None = None
    started: float | None = None
    updated: float = 0.0
    run: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def knobs(self) -> dict[str, Any]:
        """Those of run.json; empty without any."""
        return _mapping(self.run.get("knobs"))


def is_inside(root: Path, path: Path) -> bool:
    """Whether a path, its links followed, is in the log folder; nothing else is ever opened."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False


class RunIndex:
    """The runs under a folder, looked for again at each `scan`, read again only where something changed.

    Attributes:
        rows: Run id (its path below the folder) to its row, newest first.
        version: Grows when a row changed.
        problem: Why the folder cannot be shown (whole), "" when it can; a key of monitor/i18n.py.
    """

    def __init__(self, root: Path):
        self.root = root
        self.rows: dict[str, Row] = {}
        self.version = 0
        self.problem = ""
        self._listed: dict[Path, tuple[int, list[tuple[Path, str]], list[Path]]] = {}
        self._peeks: dict[Path, _Peek] = {}

    def scan(self) -> None:
        """Looks for runs and brings their rows up to date."""
        self.problem = ""
        found: dict[str, Row] = {}
        for path, kind in islice(self._walk(self.root, 0), MAX_RUNS + 1):
            if len(found) == MAX_RUNS:
                self.problem = "too_many"
                break
            peek = self._peeks.get(path)
            if peek is None or peek.kind != kind:
                peek = self._peeks[path] = _Peek(path, kind, self.root)
            found[peek.id] = peek.row_or_damaged()
        for path in self._peeks.keys() - {row.path for row in found.values()}:
            del self._peeks[path]
        rows = dict(sorted(found.items(), key=lambda item: -(item[1].started or item[1].updated)))
        if rows != self.rows or list(rows) != list(self.rows):
            self.rows, self.version = rows, self.version + 1

    def _walk(self, folder: Path, depth: int) -> Iterator[tuple[Path, str]]:
        try:
            listed = self._list(folder)
        except FileNotFoundError:
            if depth == 0:
                self.problem = "missing"
            return
        except NotADirectoryError:
            self.problem = "not_a_folder"
            return
        except PermissionError:
            self.problem = "unreadable"
            return
        runs, folders = listed
        yield from runs
        if depth < MAX_DEPTH:
            for child in folders:
                yield from self._walk(child, depth + 1)

    def _list(self, folder: Path) -> tuple[list[tuple[Path, str]], list[Path]]:
        """The runs that a folder is or holds as plain files, and the folders to look into; kept while unchanged."""
        changed = os.stat(folder).st_mtime_ns
        kept = self._listed.get(folder)
        if kept and kept[0] == changed and time.time_ns() - changed > 2 * 10**9:
            return kept[1], kept[2]
        with os.scandir(folder) as entries:
            seen = [entry for entry in islice(entries, MAX_ENTRIES) if is_inside_entry(self.root, entry)]
        names = {entry.name for entry in seen}
        runs = []
        if folder != self.root and (RUN_FILE in names or LOG_FILE in names or "metrics.jsonl" in names):
            runs.append((folder, "run"))
        elif any("tfevents" in name for name in names):
            runs.append((folder, "tensorboard"))
        is_run = bool(runs)
        folders = []
        for entry in sorted(seen, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if not (is_run and entry.name in _INSIDE_A_RUN):
                    folders.append(Path(entry.path))
            elif is_run or not entry.is_file():  # a pipe of that name would hold the page for ever
                continue
            elif _LOG_NAMES.fullmatch(entry.name) and not _NO_LOG_NAMES.fullmatch(entry.name):
                runs.append((Path(entry.path), "log"))
        self._listed[folder] = (changed, runs, folders)
        return runs, folders


def is_inside_entry(root: Path, entry: os.DirEntry) -> bool:
    """Links that lead out of the log folder are as if they were not there."""
    return not entry.is_symlink() or is_inside(root, Path(entry.path))


class _Peek:
    """The row of one run, from run.json and the end of its newest metrics file."""

    def __init__(self, path: Path, kind: str, root: Path):
        self.path, self.kind = path, kind
        self.id = plain(path.relative_to(root).as_posix() if path != root else path.name)
        self._run_file = os.path.join(path, RUN_FILE)
        self._run_stamp: tuple[int, int] | None = None
        self._run: dict[str, Any] = {}
        self._tail: Tail | None = None
        self._events: RunMetrics | None = None
        self._parser = LogParser()
        self._columns = Columns()
        self._facts: dict[str, Any] = {}
        self._row: Row | None = None
        self._looked = 0.0

    def row_or_damaged(self) -> Row:
        """The row; of a run whose files cannot be read, one that says so: the others stay."""
        try:
            return self.row()
        except Exception as error:
            reason = plain(f"{type(error).__name__}: {error}"[:200])
            return Row(self.id, self.path, self.kind, state="damaged", reason=reason)

    def row(self) -> Row:
        """The row as things are now; that of a run that ended long ago is looked at now and then only."""
        before, now = self._row, time.time()
        ended = before is not None and before.state not in ("running", "live", "silent")
        if ended and now - before.updated > QUIET_AFTER and now - self._looked < RECHECK_ENDED:
            if not self._read_run():
                return before
        else:
            self._read_run()
        self._looked = now
        self._row = self._look()
        return self._row

    def _look(self) -> Row:
        updated = self._read_end()
        run, facts = self._run, self._facts
        row = Row(self.id, self.path, self.kind, updated=updated, run=run, **facts)
        row.algorithm = str(run.get("algorithm") or "")[:MAX_FACT]
        row.model = str(run.get("model_name") or "")[:MAX_FACT]
        row.reason = str(run.get("reason") or "")[: 10 * MAX_FACT]
        row.started = _timestamp(run.get("started"))
        total = _mapping(run.get("knobs")).get("TOTAL_STEPS")
        row.total = int(total) if re.fullmatch(r"[0-9]{1,12}", str(total)) else self._parser.total_steps
        row.state = self._state(max(updated, row.started or 0.0))  # nothing is written yet when a run has just begun
        if row.state in ("running", "live") and row.total and row.step is not None and row.step_time:
            row.eta = max(0.0, (row.total - row.step) * row.step_time)
        return row

    def _read_run(self) -> bool:
        """Reads run.json when it is another one than before; returns whether it is."""
        before = self._run_stamp
        try:
            found = os.lstat(self._run_file)
            if not stat.S_ISREG(found.st_mode) or found.st_size > 1 << 20:
                raise ValueError("no run.json")
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp != self._run_stamp:
                self._run_stamp = stamp
                self._run = plain_tree(_mapping(json.loads(read_regular(self._run_file, 1 << 20))))
        except (OSError, ValueError, RecursionError):
            self._run, self._run_stamp = {}, None
        return self._run_stamp != before

    def _read_end(self) -> float:
        """Reads what is new at the end of the run's newest file; returns when that file last changed."""
        newest = self._newest_file()
        if newest is None:
            return 0.0
        try:
            found = os.stat(newest)
        except OSError:
            return 0.0
        if self.kind == "tensorboard":
            self._read_events(newest)
            return found.st_mtime
        if self._tail is None or self._tail.path != newest:
            self._tail = Tail(newest, max(0, found.st_size - PEEK), flush_after=5.0)
            self._parser, self._columns = LogParser(), Columns()
        restarts, size = self._tail.restarts, self._columns.size
        while chunk := self._tail.read():
            self._columns.add(self._parser.feed(chunk))
        if self._tail.restarts != restarts:
            self._facts = {}
        if self._columns.size != size:
            self._facts = _facts(self._columns)
        return found.st_mtime

    def _read_events(self, newest: Path) -> None:
        """An event file has no end to peek at; it is read whole once, and then what is new."""
        self._events = self._events or RunMetrics(self.path)
        version = self._events.version
        self._events.poll(0.3)
        if self._events.version != version:
            self._facts = _facts(self._events.columns)

    def _newest_file(self) -> Path | None:
        if self.kind == "log":
            return self.path.resolve()
        if self.kind == "tensorboard":
            files = [*self.path.glob(EVENT_FILES)]
            return max(files, key=lambda path: path.stat().st_mtime, default=None)
        for path in reversed(metrics_files(self.path)):
            if path.is_file() and path.stat().st_size:
                return path
        log = self.path / LOG_FILE
        return log if log.is_file() else None

    def _state(self, updated: float) -> str:
        recent = time.time() - updated < QUIET_AFTER
        said = self._run.get("state")
        if said not in ("running", "finished", "failed", "stopped"):
            return "live" if recent else "quiet"
        if said != "running":
            return said
        if self._run.get("host") == os.uname().nodename:
            return "running" if is_alive(self._run) else "died"
        return "running" if recent or is_alive(self._run, self.path) else "silent"


def _facts(columns: Columns) -> dict[str, Any]:
    """Step, value and step time of the last records."""
    facts: dict[str, Any] = {"step": columns.last_step if columns.last_step >= 0 else None}
    for name in _VALUES:
        _, values = columns.series(name)
        if len(values):
            facts |= {"metric": name, "value": float(values[-1])}
            break
    _, times = columns.series("step_time")
    if len(times):
        recent = sorted(times[-10:].tolist())
        facts["step_time"] = recent[len(recent) // 2]
    return facts


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _timestamp(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return None
