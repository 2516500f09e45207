"""The machines of a run on several: who they are, what each wrote of itself, and its log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.machine_use import FOLDER, Gpu, Moment
from common.run_dir import LOG_FILE
from monitor.log_tail import end_of
from monitor.plain import plain
from monitor.store import Monitor

MAX_MACHINES = 256
MAX_GPUS = 64
MAX_BYTES = 1 << 20  # read at the end of a file: an hour of a machine with 16 GPUs
MAX_NAME = 80  # characters


@dataclass(frozen=True)
class Machine:
    """One machine of a run.

    Args:
        rank: 0 for the first.
        host: Its name.
        address: Its own.
        file: Where its figures are, None where none were written.
    """

    rank: int
    host: str
    address: str
    file: Path | None

    @property
    def title(self) -> str:
        """As the page names it."""
        return f"{self.rank + 1}: {self.host} ({self.address})" if self.address else f"{self.rank + 1}: {self.host}"


def machines_of(monitor: Monitor, run_id: str | None) -> list[Machine]:
    """Those of a run's last attempt, the first one first; none where it has one only."""
    row = monitor.row(run_id)
    listed = row.run.get("machines") if row else None
    found = []
    for entry in (listed if isinstance(listed, list) else [])[:MAX_MACHINES]:
        if isinstance(entry, dict) and isinstance(entry.get("rank"), int) and 0 <= entry["rank"] < 10_000:
            host, address = (plain(str(entry.get(name) or "?"))[:MAX_NAME] for name in ("host", "address"))
            found.append(Machine(entry["rank"], host, address, monitor.file(run_id, f"{FOLDER}/{entry['rank']}.jsonl")))
    return sorted(found, key=lambda one: one.rank)


def logs_of(monitor: Monitor, run_id: str | None) -> dict[str, Path]:
    """Console logs of a run by the machine's title; the first machine's, ``train.log``, comes first."""
    first = monitor.log(run_id)
    logs = {LOG_FILE: first} if first else {}
    for machine in machines_of(monitor, run_id):
        path = monitor.file(run_id, f"train.node{machine.rank}.log") if machine.rank else first
        if path:
            logs[machine.title] = path
    if len(logs) > 1:
        logs.pop(LOG_FILE, None)
    return logs


class Figures:
    """What machines wrote of themselves; each file is read again only once it has changed."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[tuple[int, int], list[Moment]]] = {}

    def of(self, machine: Machine) -> list[Moment]:
        """The last hour's moments of a machine, oldest first."""
        if machine.file is None:
            return []
        try:
            found = machine.file.stat()
            stamp = (found.st_size, found.st_mtime_ns)
            kept = self._read.get(machine.file)
            if kept is None or kept[0] != stamp:
                lines = end_of(machine.file, MAX_BYTES).decode("utf-8", errors="replace").splitlines()
                kept = stamp, [moment for line in lines if (moment := _moment(line))]
                if len(self._read) >= 2 * MAX_MACHINES:
                    self._read.clear()
                self._read[machine.file] = kept
        except OSError:
            return []
        newest = kept[1][-1].time if kept[1] else 0.0
        return [moment for moment in kept[1] if 0 <= newest - moment.time <= 3600]


def _moment(line: str) -> Moment | None:
    """A line of the file; None where it is none."""
    try:
        read = json.loads(line)
        gpus = tuple(_gpu(one) for one in read["gpus"][:MAX_GPUS])
        plain_numbers = {name: _number(read[name]) for name in ("time", "cpu", "memory", "disk")}
        totals = {name: max(1.0, _number(read[name])) for name in ("memory_total", "disk_total")}
        return Moment(**plain_numbers, **totals, gpus=gpus)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def _gpu(read: dict[str, Any]) -> Gpu:
    names = ("use", "memory", "total", "temperature", "power", "limit")
    numbers = {name: None if read[name] is None else _number(read[name]) for name in names}
    return Gpu(index=int(read["index"]), name=plain(str(read["name"]))[:MAX_NAME], **numbers)


def _number(value: Any) -> float:
    """A number of a sensible size.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e18 < value < 1e18:
        raise TypeError(f"{value!r} is not a number")
    return float(value)
