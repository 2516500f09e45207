"""Reads a run's metrics as they are written: `RunMetrics` follows the metrics files of one run into `Columns`.

Nothing here starts a thread: whoever shows a run calls `poll`.
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

from common.run_dir import LOG_FILE, metrics_files
from common.tail import Tail
from monitor.columns import Columns
from monitor.log_parser import LogParser
from monitor.plain import plain

_ATTEMPT = re.compile(rb"^# attempt (\d+),", re.MULTILINE)
EVENT_FILES = "*tfevents*"


class _Source:
    """One file of a run, what reads it, and the attempt that it belongs to."""

    def __init__(self, path: Path, attempt: int, fixed: bool):
        self.tail = Tail(path, flush_after=None if fixed else 5.0)
        self.parser = LogParser()
        self.attempt = attempt
        self.fixed = fixed  # a metrics file belongs to one attempt; a console log says where one begins
        self.restarts = 0


class RunMetrics:
    """The metrics of one run, kept up to date by `poll`.

    Args:
        path: A run directory, a folder with TensorBoard event files, or a plain log.

    Attributes:
        columns: The numbers; take `lock` to read several of them at one moment.
        version: Grows with every change; equal versions mean equal numbers.
        used: When a page last asked for it, `time.monotonic`.
        loading: A thread reads it to its end.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lock = threading.RLock()
        self.columns = Columns()
        self.version = 0
        self.used = time.monotonic()
        self.loading = False
        self._sources: dict[Path, _Source] = {}
        self._events: dict[Path, object] = {}
        self._polling = threading.Lock()

    @property
    def total_steps(self) -> int | None:
        """The number of steps that the log announces, None when it does not."""
        totals = [source.parser.total_steps for source in self._sources.values()]
        return max((total for total in totals if total), default=None)

    @property
    def errors(self) -> list[str]:
        """What cannot be read, and why."""
        found = [plain(f"{s.tail.path.name}: {s.tail.error}") for s in self._sources.values() if s.tail.error]
        return found + [plain(f"{path.name}: {reader.error}") for path, reader in self._events.items() if reader.error]

    def progress(self) -> float:
        """The share of the bytes that is read, 0 to 1."""
        size = sum(source.tail.size for source in self._sources.values())
        done = sum(min(source.tail.offset, source.tail.size) for source in self._sources.values())
        return done / size if size else 1.0

    def poll(self, seconds: float = 1.0) -> bool:
        """Reads what is new.

        Args:
            seconds: Stop after about this long; the next call continues.

        Returns:
            Whether everything that is there has been read.
        """
        if not self._polling.acquire(blocking=False):
            return False  # another page is at it
        try:
            end = time.monotonic() + seconds
            self._find_sources()
            done = all([self._read(source, end) for source in self._sources.values()])
            return self._read_events(end) and done
        finally:
            self._polling.release()

    def _find_sources(self) -> None:
        if self.path.is_file():
            self._add(self.path, 1, fixed=False)
            return
        for number, path in enumerate(metrics_files(self.path), 1):
            match = re.search(r"\.(\d+)\.jsonl$", path.name)
            self._add(path, int(match.group(1)) if match else number, fixed=True)
        # The console is only read while the better source has nothing (a run that just began, a file that is gone).
        if any(os.path.getsize(path) for path, source in self._sources.items() if source.fixed and path.is_file()):
            self._drop_console()
        elif (self.path / LOG_FILE).is_file():
            self._add(self.path / LOG_FILE, 1, fixed=False)
        if not self._sources:
            self._find_events()

    def _add(self, path: Path, attempt: int, fixed: bool) -> None:
        if path not in self._sources:
            self._sources[path] = _Source(path, attempt, fixed)

    def _drop_console(self) -> None:
        """Forgets the console's numbers once the metrics file has its first: they are the same steps."""
        console = [path for path, source in self._sources.items() if not source.fixed]
        for path in console:
            del self._sources[path]
        if console:
            with self.lock:
                self.columns = Columns()
                self.version += 1

    def _read(self, source: _Source, end: float) -> bool:
        while True:
            chunk = source.tail.read()
            if source.tail.restarts != source.restarts:
                source.restarts = source.tail.restarts
                self._restart(source)
            if chunk:
                self._take(source, chunk)
            elif not source.tail.pending or source.tail.error:
                return True
            if time.monotonic() > end:
                return not source.tail.pending

    def _restart(self, source: _Source) -> None:
        with self.lock:
            if source.fixed:
                self.columns.drop(source.attempt)
            else:
                self.columns, source.attempt = Columns(), 1
            source.parser = LogParser()
            self.version += 1

    def _take(self, source: _Source, chunk: bytes) -> None:
        """Parses a chunk; a console log is cut where an attempt begins."""
        parts = [(source.attempt, chunk)]
        if not source.fixed and b"# attempt " in chunk:
            marks = list(_ATTEMPT.finditer(chunk))
            bounds = [0, *(mark.start() for mark in marks), len(chunk)]
            attempts = [source.attempt, *(min(int(mark.group(1)[:9]), 10**6) for mark in marks)]
            parts = [(attempts[i], chunk[bounds[i] : bounds[i + 1]]) for i in range(len(attempts))]
        for attempt, part in parts:
            records = source.parser.feed(part)
            source.attempt = attempt
            if records:
                with self.lock:
                    self.columns.add(records, attempt)
                    self.version += 1

    # ---- TensorBoard -------------------------------------------------------------------------------------

    def _find_events(self) -> None:
        from monitor.tensorboard_events import EventReader

        for folder in (self.path, self.path / "tensorboard"):
            for path in sorted(folder.glob(EVENT_FILES)):
                if path not in self._events and path.is_file() and not path.is_symlink():
                    self._events[path] = EventReader(path)

    def _read_events(self, end: float) -> bool:
        done = True
        for reader in self._events.values():
            records, finished = reader.read(end)
            done = done and finished
            if records:
                with self.lock:
                    self.columns.add(records)
                    self.version += 1
        return done
