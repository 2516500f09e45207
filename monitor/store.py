"""What the page asks: the runs and their numbers, read when somebody looks and kept while there is room."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from common.run_dir import LOG_FILE
from monitor.metrics_collector import RunMetrics
from monitor.runs import Row, RunIndex, is_inside

SCAN_SECONDS = 1.0  # the folder is looked at again after this time, when somebody asks
POLL_SECONDS = 0.2
MAX_NUMBERS = 24_000_000  # held over all runs, 8 bytes each; the least used runs go first
SMALL = 2 << 20  # bytes that may be read while a request waits


class Monitor:
    """The log folder as the page sees it.

    Args:
        root: The log folder. Nothing outside of it is read, and run names of requests are looked up, never joined.
    """

    def __init__(self, root: Path):
        self.root = Path(root).absolute()
        self._index = RunIndex(self.root)
        self._scanned = -SCAN_SECONDS
        self._lock = threading.Lock()
        self._metrics: dict[Path, RunMetrics] = {}
        self._polled: dict[Path, float] = {}

    def rows(self, oldest: float | None = None) -> dict[str, Row]:
        """Run id to row, newest first.

        Args:
            oldest: Seconds that they may be old, `SCAN_SECONDS` by default; below it waits for another thread's scan.
        """
        oldest = SCAN_SECONDS if oldest is None else oldest
        wait = oldest < SCAN_SECONDS or not self._index.version
        if time.monotonic() - self._scanned >= oldest and self._lock.acquire(blocking=wait):
            try:
                if time.monotonic() - self._scanned >= oldest:
                    self._index.scan()
                    self._scanned = time.monotonic()
            finally:
                self._lock.release()
        return self._index.rows

    @property
    def problem(self) -> str:
        """Why the log folder cannot be shown, "" when it can; a key of monitor/i18n.py."""
        return self._index.problem

    def version(self) -> int:
        """Grows when a row of the table changed."""
        self.rows()
        return self._index.version

    def row(self, run_id: str | None) -> Row | None:
        """The row of a run, None when that run is not there (any more)."""
        return self.rows().get(run_id) if isinstance(run_id, str) else None

    def file(self, run_id: str | None, name: str) -> Path | None:
        """A file or folder of a run directory, None when it is not there or leads out of the log folder."""
        row = self.row(run_id)
        if row is None or row.kind != "run":
            return None
        path = row.path / name
        return path.resolve() if path.exists() and is_inside(self.root, path) else None

    def log(self, run_id: str | None) -> Path | None:
        """The console log of a run: train.log, or the plain log that it is."""
        row = self.row(run_id)
        if row and row.kind == "log":
            return row.path.resolve() if is_inside(self.root, row.path) else None
        return self.file(run_id, LOG_FILE)

    def metrics(self, run_id: str | None, wait: float = 0.0) -> RunMetrics | None:
        """The numbers of a run, with what was written since the last call.

        Args:
            run_id: An id of `rows`.
            wait: How many seconds to read at most; what is left is read by a separate thread.

        Returns:
            None when that run is not there.
        """
        row = self.row(run_id)
        if row is None:
            return None
        metrics = self._metrics.get(row.path)
        if metrics is None:
            metrics = self._metrics.setdefault(
                row.path, RunMetrics(row.path.resolve() if row.kind == "log" else row.path)
            )
            self._make_room(metrics)
        metrics.used = time.monotonic()
        if metrics.used - self._polled.get(row.path, -1.0) >= POLL_SECONDS:
            self._polled[row.path] = metrics.used
            if not metrics.poll(max(wait, 0.02)) and not metrics.loading:
                metrics.loading = True
                threading.Thread(target=self._load, args=(metrics,), daemon=True).start()
        return metrics

    def _load(self, metrics: RunMetrics) -> None:
        """Reads a long file to its end, leaving the other threads their turn."""
        try:
            while not metrics.poll(0.2):
                time.sleep(0.002)
                if time.monotonic() - metrics.used > 60:  # nobody looks any more
                    return
            self._make_room(metrics)
        finally:
            metrics.loading = False

    def _make_room(self, newest: RunMetrics) -> None:
        held = sum(metrics.columns.size for metrics in list(self._metrics.values()))
        for path, metrics in sorted(self._metrics.items(), key=lambda item: item[1].used):
            if held <= MAX_NUMBERS:
                return
            if metrics is not newest and not metrics.loading:
                held -= metrics.columns.size
                del self._metrics[path]
