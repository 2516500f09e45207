"""The checkpoints of a run as the page shows them: size, whether they are whole, when they were written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from common.checkpoints.integrity import problems, tracked_step
from common.checkpoints.layout import Checkpoint, checkpoints_of


@dataclass(frozen=True)
class Saved:
    """One checkpoint, or the exported model.

    Args:
        step: Training step; None for the exported model.
        path: Its folder.
        size: Bytes of its files.
        written: Time of its newest file, seconds since 1970.
        latest: It is the one that a resumed run continues from.
        problems: What is torn or missing; empty when it is whole.
    """

    step: int | None
    path: Path
    size: int
    written: float
    latest: bool = False
    problems: tuple[str, ...] = ()


def saved_in(run_dir: Path) -> list[Saved]:
    """The exported model first, then the checkpoints, newest first."""
    return list(_saved(run_dir, signature(run_dir)))


@lru_cache(maxsize=64)
def _saved(run_dir: Path, seen: str) -> tuple[Saved, ...]:
    newest = tracked_step(run_dir / "checkpoints")
    found = [_one(one, one.step == newest) for one in reversed(checkpoints_of(run_dir)) if not one.path.is_symlink()]
    model = run_dir / "model"
    if (model / "config.json").is_file():
        found.insert(0, Saved(None, model, *_measure(model)))
    return tuple(found)


def _one(checkpoint: Checkpoint, latest: bool) -> Saved:
    try:
        wrong = tuple(problems(checkpoint))
    except OSError as error:  # it is being removed, or may not be read
        wrong = (str(error),)
    return Saved(checkpoint.step, checkpoint.path, *_measure(checkpoint.path), latest, wrong)


def _measure(folder: Path) -> tuple[int, float]:
    """Bytes of a folder's files, and the time of the newest one."""
    size, newest = 0, 0.0
    for file in folder.rglob("*"):
        try:
            found = file.lstat()
        except OSError:
            continue
        size, newest = size + found.st_size, max(newest, found.st_mtime)
    return size, newest


def signature(run_dir: Path) -> str:
    """Changes when a checkpoint comes, grows or goes; a few calls of stat."""
    marks = [run_dir / "model"]
    for one in checkpoints_of(run_dir):
        marks += [one.path, one.path / "actor"]
    marks += [run_dir / "checkpoints", run_dir / "checkpoints" / "latest_checkpointed_iteration.txt"]
    return "/".join(str(_changed(path)) for path in marks)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
