"""Is a checkpoint complete? The marker that says so, and the search for what is torn or missing.

verl writes shards straight into their final place, and names the newest step in ``latest_checkpointed_iteration.txt``
(its RL trainers not even atomically). A kill or a full disk leaves a folder that looks like a checkpoint. So the kit
writes ``complete.json`` with the size of every file, atomically, when all ranks are done; without it a checkpoint
counts only when verl named it and every file that must be there is whole.
"""

from __future__ import annotations

import json
import time
import zipfile
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from common.checkpoints.layout import Checkpoint, checkpoints_of, is_megatron, shard_files, world_size
from common.files import write_atomically
from common.small_files import read_json

MARKER = "complete.json"
SHARE_SECONDS = 90.0  # NFS shows the files of other machines when its cache has run out
TRACKER = "latest_checkpointed_iteration.txt"


def mark_complete(folder: Path, seconds: float = SHARE_SECONDS, **facts: Any) -> None:
    """Write the marker of a checkpoint whose files have all been written, by all ranks.

    Args:
        folder: A ``global_step_N`` folder.
        seconds: How long files of other machines may take to be seen here.
        facts: What else is worth knowing later, e.g. ``attempt=2``.

    Raises:
        FileNotFoundError: If a rank's shard is not there: its machine writes into another folder.
    """
    until = time.monotonic() + seconds
    while missing := [file for role in Checkpoint(folder, 0).roles.values() for file in missing_shards(role)]:
        if time.monotonic() > until:
            more = f", and {len(missing) - 1} more" if missing[1:] else ""
            raise FileNotFoundError(
                f"{missing[0]} is missing{more}, so the checkpoint is not complete; does every machine "
                "write to the same OUTPUTS_DIR?"
            )
        time.sleep(0.5)
    files = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MARKER
    }
    content = {"written": datetime.now(timezone.utc).isoformat(timespec="seconds"), **facts, "files": files}
    write_atomically(folder / MARKER, json.dumps(content, indent=1) + "\n")


def read_marker(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What the marker holds, or None without one."""
    try:
        return read_json(checkpoint.path / MARKER)
    except (FileNotFoundError, ValueError):
        return None


def tracked_step(checkpoints: Path) -> int | None:
    """The step that verl names as the newest; None when the file is missing or torn."""
    try:
        text = (checkpoints / TRACKER).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def problems(checkpoint: Checkpoint, deep: bool = False) -> list[str]:
    """Return what is wrong with a checkpoint, each with the file's name; empty when it is complete.

    Args:
        checkpoint: Any.
        deep: Also read every file and compare its checksums; takes as long as reading the disk does.
    """
    marker = read_marker(checkpoint)
    if marker is None and tracked_step(checkpoint.path.parent) != checkpoint.step:
        return [f"{MARKER} is missing, so it was not written to its end"]
    found = []
    for name, size in (marker or {}).get("files", {}).items():
        file = checkpoint.path / name
        if not file.is_file():
            found.append(f"{name} is missing")
        elif file.stat().st_size != size:
            found.append(f"{name} has {file.stat().st_size:,} bytes, {size:,} were written")
    found += _missing(checkpoint, marker)
    known = {problem.split()[0] for problem in found}
    for file in sorted(checkpoint.path.rglob("*.pt")):
        name = str(file.relative_to(checkpoint.path))
        problem = torn(file, deep) if name not in known else None
        if problem:
            found.append(f"{name} {problem}")
    return found


def _missing(checkpoint: Checkpoint, marker: dict | None) -> list[str]:
    """Files that must be there whatever the marker says: every kind of shard from every rank."""
    found = []
    for folder in checkpoint.roles.values():
        if is_megatron(folder):
            continue
        if world_size(folder) is None:
            name = folder.relative_to(checkpoint.path) / "fsdp_config.json"
            found.append(f"{name} is missing, or shards of two runs mix")
            continue
        found += [f"{file.relative_to(checkpoint.path)} is missing" for file in missing_shards(folder)]
    if not checkpoint.roles:
        found.append("no shards in it")
    elif marker is None:  # with one, it lists them
        states = len(list(checkpoint.path.glob("data*.pt")))
        expected = (checkpoint.world_size or 1) if checkpoint.is_supervised else 1
        if states < expected:
            found.append(f"data*.pt: {states} of {expected} states of the data loader are there")
    listed = (marker or {}).get("files", {})
    return [problem for problem in found if problem.split()[0] not in listed]


def missing_shards(folder: Path) -> list[Path]:
    """Shards that a folder of a model lacks, of the kinds that any rank has written; none where it has no shards."""
    size = world_size(folder) or 0
    there = {(match[1], int(match[3])) for _, match in shard_files(folder) if int(match[2]) == size}
    kinds = {kind for kind, _ in there} or {"model"}
    expected = [(kind, rank) for kind in sorted(kinds) for rank in range(size)]
    return [folder / f"{kind}_world_size_{size}_rank_{rank}.pt" for kind, rank in expected if (kind, rank) not in there]


def torn(file: Path, deep: bool = False) -> str | None:
    """Return how a file written by ``torch.save`` (a zip archive) is broken, or None."""
    try:
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip() if deep else None
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return f"is torn ({error})"
    return f"is damaged: the checksum of {bad} does not fit" if bad else None


def age(checkpoint: Checkpoint) -> tuple[float, int]:
    """What checkpoints are sorted by, the newest last: attempt, then step, as an attempt may start at an earlier one.

    Without a marker only one that was named the moment before the end can be whole, and it is the newest.
    """
    marker = read_marker(checkpoint)
    return (float(marker.get("attempt", 0)) if marker else float("inf"), checkpoint.step)


@dataclass
class Choice:
    """The checkpoint to resume from, and those that were skipped with the reason."""

    checkpoint: Checkpoint | None = None
    skipped: list[str] = field(default_factory=list)


def newest_complete(path: Path) -> Choice:
    """The newest complete checkpoint of a run; of two lines of training the one that was written last.

    Args:
        path: A run directory, or a folder of ``global_step_N`` folders.
    """
    choice = Choice()
    for checkpoint in sorted(checkpoints_of(path), key=age, reverse=True):
        found = problems(checkpoint)
        if not found:
            choice.checkpoint = checkpoint
            return choice
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        choice.skipped.append(f"{checkpoint.path.name} is not complete: {found[0]}{more}")
    return choice


def latest_checkpoint(run_dir: Path) -> tuple[int, Path] | None:
    """Return step and folder of the newest complete checkpoint, or None; one that is half-written does not count."""
    checkpoint = newest_complete(Path(run_dir)).checkpoint
    return (checkpoint.step, checkpoint.path) if checkpoint else None
