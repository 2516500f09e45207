"""``<run>/data``: rows that were converted or split off for a run, and the marks of the files that they come from."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.small_files import read_json

FOLDER = "data"
SOURCES_FILE = "sources.json"
PIECE = 4 * 2**20  # bytes read at once


def marks_of(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """By what files are known again: size and a hash of the content, so that one that was moved is still the same."""
    return [{"path": str(path), "bytes": path.stat().st_size, "blake2b": _digest(path)} for path in paths]


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def same_content(before: Any, now: Any) -> bool:
    """Whether two lists of marks are of the same contents in the same order."""
    if not isinstance(before, list) or not isinstance(now, list):
        return before == now
    return [mark["blake2b"] for mark in before] == [mark["blake2b"] for mark in now]


def read_sources(run_dir: Path) -> dict[str, Any]:
    """What ``sources.json`` of a run says, empty where there is none (a run of an earlier version)."""
    try:
        return read_json(run_dir / FOLDER / SOURCES_FILE)
    except FileNotFoundError:
        return {}


def place(run_dir: Path, environment: Mapping[str, str]) -> None:
    """Move what the preflight made ready (``READY_DATA``) into the run directory; ``sources.json`` comes last."""
    ready = environment.get("READY_DATA")
    if not ready or not Path(ready).is_dir():
        return
    target = run_dir / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(Path(ready).iterdir(), key=lambda file: file.name == SOURCES_FILE):
        temporary = target / f".{file.name}.partial"
        shutil.move(file, temporary)  # it may come from another disk
        os.replace(temporary, target / file.name)
    Path(ready).rmdir()


def discard(environment: Mapping[str, str]) -> None:
    """Remove what the preflight made ready where no run comes of it."""
    if environment.get("READY_DATA"):
        shutil.rmtree(environment["READY_DATA"], ignore_errors=True)
