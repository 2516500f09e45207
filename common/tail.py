"""Reads files that another process is writing: each byte once, whole lines only; a half-written one is waited for."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

from common.files import open_regular
from common.run_dir import read_record

CHUNK = 4 << 20  # bytes read at a time
MAX_LINE = 32 << 20  # bytes; a longer line is not a log line and is skipped
GUARD = 64  # bytes before the offset that are compared when a file has changed, to notice that it was rewritten


class Tail:
    """The new whole lines of a growing file.

    Args:
        path: The file; it need not exist yet.
        offset: Where to start, bytes.
        flush_after: Seconds without growth after which a last line without a line end counts as whole; None: never.
        progress_bars: A carriage return ends a line too, and the first line begins at `offset`.

    Attributes:
        restarts: How often the file was found truncated or replaced, and was read again from its start.
        size: Its size when last looked at, bytes.
        error: Why it cannot be read, "" when it can.
    """

    def __init__(self, path: Path, offset: int = 0, flush_after: float | None = None, progress_bars: bool = False):
        self.path = path
        self.offset = offset
        self.flush_after = flush_after
        self.restarts = 0
        self.size = 0
        self.error = ""
        self._file: tuple[int, int] | None = None  # device and inode
        self._stamp = (-1, -1)  # size and time of change when last looked at
        self._guard = b""  # the last bytes before the offset
        self._rest = b""
        self._progress_bars = progress_bars
        self._skipping = offset > 0 and not progress_bars  # until the next line end
        self._grown = time.monotonic()

    @property
    def pending(self) -> int:
        """Bytes that are there and not read yet."""
        return max(0, self.size - self.offset)

    def read(self, limit: int = CHUNK) -> bytes:
        """Returns whole new lines, at most about `limit` bytes of them; b"" when there is nothing new."""
        try:
            found = os.stat(self.path)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(f"{self.path.name} is not a plain file")
            self.error = ""
            stamp = (found.st_size, found.st_mtime_ns)
            if stamp == self._stamp and (found.st_dev, found.st_ino) == self._file and not self.pending:
                return self._flush()
            with open_regular(self.path) as stream:
                self._check(stream.fileno(), found)
                self._stamp = stamp
                stream.seek(self.offset)
                new = stream.read(limit) or b""
        except OSError as error:
            self.error = error.strerror or str(error)
            return b""
        return self._lines(new)

    def lines(self) -> list[str]:
        """All lines that were completed since the last call, without their ends."""
        parts = [self.read()]
        while self.pending and not self.error:
            parts.append(self.read())
        text = b"".join(parts)
        text = text.replace(b"\r", b"\n") if self._progress_bars else text
        return text.decode("utf-8", errors="replace").split("\n")[:-1] if text else []

    def _check(self, descriptor: int, found: os.stat_result) -> None:
        """Starts again when the file is another one, is shorter than what was read, or was rewritten."""
        same = self._file in (None, (found.st_dev, found.st_ino)) and found.st_size >= self.offset
        if same and self._guard:
            same = os.pread(descriptor, len(self._guard), self.offset - len(self._guard)) == self._guard
        if not same:
            self.offset, self._rest, self._guard, self._skipping = 0, b"", b"", False
            self.restarts += 1
        self._file = (found.st_dev, found.st_ino)
        self.size = found.st_size

    def _lines(self, new: bytes) -> bytes:
        if not new:
            return b""
        self.offset += len(new)
        self._guard = (self._guard + new[-GUARD:])[-GUARD:]
        self._grown = time.monotonic()
        if self._skipping:
            start = new.find(b"\n") + 1
            if not start:
                return b""
            new, self._skipping = new[start:], False
        end = max(new.rfind(b"\n"), new.rfind(b"\r") if self._progress_bars else -1) + 1
        if not end:
            self._rest += new
            if len(self._rest) > MAX_LINE:
                self._rest, self._skipping = b"", True
            return b""
        whole, self._rest = self._rest + new[:end], new[end:]
        return whole

    def _flush(self) -> bytes:
        quiet = self.flush_after is not None and time.monotonic() - self._grown > self.flush_after
        if not (quiet and self._rest):
            return b""
        rest, self._rest = self._rest, b""
        return rest


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
