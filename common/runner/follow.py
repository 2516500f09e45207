"""Read files that another process is writing: whole new lines, a torn last one waits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from common.run_dir import read_record


class Tail:
    """New lines of a growing file.

    Args:
        path: The file; it need not exist yet.
        offset: Where to start, bytes.
    """

    def __init__(self, path: Path, offset: int = 0):
        self.path = path
        self.offset = offset
        self._rest: list[bytes] = []

    def lines(self) -> list[str]:
        """Return the lines completed since the last call; a carriage return ends a line too (progress bars).

        A file that was emptied or replaced by a shorter one is read from its start; one that is gone has no lines.
        """
        try:
            with self.path.open("rb") as stream:
                if os.fstat(stream.fileno()).st_size < self.offset:
                    self.offset, self._rest = 0, []
                stream.seek(self.offset)
                new = stream.read()
        except OSError:
            return []
        self.offset += len(new)
        head, end, tail = new.replace(b"\r", b"\n").rpartition(b"\n")
        if not end:  # pieces of one long line are joined once, at its end
            self._rest += [tail] if tail else []
            return []
        whole = b"".join([*self._rest, head])
        self._rest = [tail] if tail else []
        return whole.decode("utf-8", errors="replace").split("\n")


class MetricsTail:
    """New records of a metrics file, ``{"step": n, "data": {...}}``; ``bad`` counts the lines that are none."""

    def __init__(self, path: Path):
        self._tail = Tail(path)
        self.bad = 0

    def records(self) -> list[dict[str, Any]]:
        """Return the records completed since the last call."""
        found = [read_record(line) for line in self._tail.lines() if line.strip()]
        self.bad += found.count(None)
        return [record for record in found if record is not None]
