"""Read files that another process is writing: whole new lines, a torn last one waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Tail:
    """New lines of a growing file.

    Args:
        path: The file; it need not exist yet.
        offset: Where to start, bytes.
    """

    def __init__(self, path: Path, offset: int = 0):
        self.path = path
        self.offset = offset
        self._rest = b""

    def lines(self) -> list[str]:
        """Return the lines completed since the last call; a carriage return ends a line too (progress bars)."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            new = stream.read()
        self.offset += len(new)
        if not new:
            return []
        whole, _, self._rest = (self._rest + new).replace(b"\r", b"\n").rpartition(b"\n")
        return whole.decode("utf-8", errors="replace").split("\n") if whole else []


class MetricsTail:
    """New records of a metrics file, ``{"step": n, "data": {...}}``."""

    def __init__(self, path: Path):
        self._tail = Tail(path)

    def records(self) -> list[dict[str, Any]]:
        """Return the records completed since the last call."""
        return [json.loads(line) for line in self._tail.lines() if line.strip()]
