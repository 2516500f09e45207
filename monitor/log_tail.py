"""The console log of a run: its end, a search through it, and its errors first."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from common.files import open_regular
from common.runner.failures import Diagnosis, diagnose
from monitor.choices import MAX_WANTED
from monitor.plain import plain

TAIL_BYTES = 256 << 10
TAIL_LINES = 500
ERROR_BYTES = 8 << 20  # at the end of the log, in which errors are looked for
MAX_HITS = 300
MAX_SHOWN = 2_000  # characters of one line
_BLOCK = 4 << 20
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ERROR = re.compile(
    r"\b(?:[A-Z]\w*(?:Error|Exception)|Traceback|CUDA out of memory|Segmentation fault|ERROR|CRITICAL|FATAL|Killed)\b"
)
WARNING = re.compile(r"\b(?:WARNING|WARN|\w*Warning)\b")


@dataclass(frozen=True)
class Hit:
    """A line that was looked for: where it begins (bytes), and its text."""

    offset: int
    text: str


def clean(line: str) -> str:
    """A line as it is shown: without colours, of a progress bar its last state, not endlessly long."""
    text = _ANSI.sub("", line).rstrip("\r").rsplit("\r", 1)[-1]
    text = "".join(letter if letter.isprintable() or letter == "\t" else "�" for letter in text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} … (+{len(text) - MAX_SHOWN})"


def tail(path: Path, count: int = TAIL_LINES) -> list[str]:
    """The last lines of a file; an OSError says why there are none."""
    data = end_of(path, TAIL_BYTES)
    lines = data.decode("utf-8", errors="replace").split("\n")
    return [clean(line) for line in lines if line.strip()][-count:]


def search(path: Path, text: str, seconds: float = 3.0) -> tuple[list[Hit], bool]:
    """Looks for a text in any case, from the end of the file backwards.

    Returns:
        The newest lines that hold it, oldest first, and whether the whole file was looked through.
    """
    sought = plain(text[:MAX_WANTED]).lower().encode()
    hits: list[Hit] = []
    end = time.monotonic() + seconds
    for offset, block in _blocks_from_the_end(path):
        if sought in block.lower():
            place = 0
            found = []
            for line in block.split(b"\n"):
                if sought in line.lower():
                    found.append(Hit(offset + place, clean(line.decode("utf-8", errors="replace"))))
                place += len(line) + 1
            hits = found + hits
        if len(hits) >= MAX_HITS or time.monotonic() > end:
            return hits[-MAX_HITS:], False
    return hits, True


def errors(path: Path, failed: bool) -> tuple[list[str], Diagnosis | None]:
    """The last error lines of the log's end, and what they mean.

    Args:
        path: The log.
        failed: The run has failed, so the log's end has a cause; of a run that continues only a traceback is explained.
    """
    text = end_of(path, ERROR_BYTES).decode("utf-8", errors="replace")
    found = [clean(line) for line in text.split("\n") if is_error(line)]
    explained = failed or any("Traceback (most recent call last)" in line for line in found)
    return found[-40:], diagnose(text) if explained else None


def is_error(line: str) -> bool:
    """Whether a line says that something went wrong; a warning that names an exception does not."""
    return bool(ERROR.search(line)) and not WARNING.search(line)


def end_of(path: Path, count: int) -> bytes:
    """The last bytes of a file, from the first whole line on."""
    with open_regular(path) as raw, BufferedReader(raw) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - count))
        data = stream.read(count)
    return data if size <= count else data[data.find(b"\n") + 1 :]


def _blocks_from_the_end(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of blocks of whole lines, the last one first."""
    with open_regular(path) as raw, BufferedReader(raw) as stream:
        end = stream.seek(0, os.SEEK_END)
        rest = b""
        while end > 0:
            start = max(0, end - _BLOCK)
            stream.seek(start)
            block = stream.read(end - start) + rest
            cut = block.find(b"\n", 0, -1) + 1 if start else 0
            if start and not cut and len(block) < 8 * _BLOCK:
                cut = len(block)  # no line end yet; a line that is longer than eight blocks is searched in pieces
            rest, shown = block[:cut], block[cut:]
            if shown:
                yield start + cut, shown
            end = start
