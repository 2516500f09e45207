"""What is new on a tab, as a short text that changes with it; asked every second by every open page, so it is cheap."""

from __future__ import annotations

import zlib
from pathlib import Path

from monitor.checkpoints import signature
from monitor.runs import Row
from monitor.samples import SOURCES, steps_of
from monitor.store import Monitor
from monitor.system import Sampler


def token(monitor: Monitor, sampler: Sampler, tab: str, run: str, compared: list[str]) -> tuple[str, str]:
    """Looks at what a tab shows.

    Args:
        monitor: The log folder.
        sampler: The machine.
        tab: Name of the open tab.
        run: The run chosen, "" for none.
        compared: The runs that are compared.

    Returns:
        A token of the list of runs and one of the tab's contents.
    """
    names = f"{zlib.crc32('|'.join(monitor.rows()).encode('utf-8', 'surrogateescape')):x}"
    if tab == "runs":
        contents = f"{monitor.version()}|{monitor.problem}"
    elif tab == "system":
        contents = f"{sampler.moments[-1].time:.1f}" if sampler.moments else ""
    elif tab == "compare":
        contents = "|".join(f"{one}:{_version(monitor, one)}" for one in compared[:8])
    else:
        row = monitor.row(run)
        contents = _of_run(monitor, tab, row) if row else "none"
    return names, f"{tab}|{run}|{contents}"


def _version(monitor: Monitor, run: str) -> int:
    metrics = monitor.metrics(run)
    return metrics.version if metrics else -1


def _of_run(monitor: Monitor, tab: str, row: Row) -> str:
    if tab in ("curves", "health"):
        return f"{_version(monitor, row.id)}|{row.state}|{row.total}"
    if tab == "log":
        return _changed(monitor.log(row.id))
    if tab == "checkpoints":
        return f"{signature(row.path)}|{row.step}" if row.kind == "run" else ""
    folders = [monitor.file(row.id, name) for name in SOURCES]
    newest = [folder / f"{steps[-1]}.jsonl" for folder in folders if folder and (steps := steps_of(folder))]
    return "|".join(_changed(path) for path in newest)


def _changed(path: Path | None) -> str:
    try:
        found = path.stat() if path else None
    except OSError:
        found = None
    return f"{found.st_size}/{found.st_mtime_ns}" if found else ""
