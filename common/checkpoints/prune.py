"""Old checkpoints removed: verl forgets after a resume which ones it has written, so KEEP_CHECKPOINTS fails there."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from common.checkpoints.integrity import age, problems
from common.checkpoints.layout import Checkpoint, checkpoints_of
from common.checkpoints.selected import selected_step
from common.metrics.names import friendly
from common.run_dir import read_metrics


def to_remove(
    run: Path, keep: int, keep_steps: Collection[int] = (), incomplete: bool = False
) -> list[tuple[Checkpoint, str]]:
    """Which checkpoints would go, with the reason.

    Args:
        run: A run directory, or a folder of ``global_step_N`` folders.
        keep: Newest complete ones that stay, at least 1.
        keep_steps: Steps that stay too, e.g. the best one; the selected one always does.
        incomplete: Also those that were not written to their end; one that is newer than all complete ones stays, as
            it may be under way.

    Raises:
        ValueError: If ``keep`` is below 1.
    """
    if keep < 1:
        raise ValueError(f"--keep {keep}: at least the newest complete checkpoint stays")
    stay = {*keep_steps, selected_step(run)}
    complete, broken = [], []
    for checkpoint in checkpoints_of(run):
        found = problems(checkpoint)
        broken.append((checkpoint, found[0])) if found else complete.append(checkpoint)
    complete.sort(key=age)
    old = complete[:-keep]
    gone = [(checkpoint, f"older than the newest {keep}") for checkpoint in old if checkpoint.step not in stay]
    if incomplete and complete:
        gone += [(checkpoint, reason) for checkpoint, reason in broken if checkpoint.step < complete[-1].step]
    return gone


def remove(checkpoint: Checkpoint) -> int:
    """Remove a checkpoint; first it is renamed, so that a half-removed one never looks like a checkpoint.

    Returns:
        Bytes that it took.
    """
    size = checkpoint.bytes
    doomed = checkpoint.path.with_name(f".{checkpoint.path.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.path.rename(doomed)
    shutil.rmtree(doomed)
    return size


def best_step(run: Path, metric: str, steps: Collection[int]) -> int | None:
    """The step with the best value of a metric, among some steps; None when it was not measured at any of them.

    Args:
        run: A run directory.
        metric: A name of the metric table (``val_score``, ``val_loss``) or of verl; the lowest loss is the best.
        steps: Steps that have a checkpoint.
    """
    values = {}
    for record in read_metrics(run):
        value = {**record["data"], **friendly(record["data"])}.get(metric)
        if record["step"] in steps and isinstance(value, int | float) and value == value:
            values[record["step"]] = value
    if not values:
        return None
    lowest = "loss" in metric or "kl" in metric
    return min(values, key=values.get) if lowest else max(values, key=values.get)
