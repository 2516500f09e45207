"""The checkpoint of a run that a person has chosen: test.sh takes it instead of the newest, and it is not pruned."""

from __future__ import annotations

import json
from pathlib import Path

from common.checkpoints.integrity import problems
from common.checkpoints.layout import Checkpoint, checkpoints_of
from common.files import write_atomically
from common.small_files import read_json_object

SELECTED = "selected.json"


def select(run_dir: Path, step: int | None) -> Checkpoint | None:
    """Choose the checkpoint of a step, or none any more.

    Args:
        run_dir: A run directory.
        step: Of a checkpoint that is complete; None takes the choice back.

    Raises:
        FileNotFoundError: If the run has no checkpoint of that step.
        ValueError: If it is not complete.
    """
    if step is None:
        (run_dir / SELECTED).unlink(missing_ok=True)
        return None
    checkpoint = _of_step(run_dir, step)
    if checkpoint is None:
        there = ", ".join(str(one.step) for one in checkpoints_of(run_dir)) or "none"
        raise FileNotFoundError(f"{run_dir}: no checkpoint of step {step}; there are those of steps {there}")
    if found := problems(checkpoint):
        raise ValueError(f"{checkpoint.path} is not complete: {found[0]}")
    write_atomically(run_dir / SELECTED, json.dumps({"step": step}) + "\n")
    return checkpoint


def selected_step(run_dir: Path) -> int | None:
    """The step that was chosen, None when none was.

    Args:
        run_dir: A run directory, or the folder ``checkpoints`` in it.

    Raises:
        ValueError: If the file is damaged.
    """
    file = (run_dir.parent if run_dir.name == "checkpoints" else run_dir) / SELECTED
    try:
        step = read_json_object(file).get("step")
    except FileNotFoundError:
        return None
    if not isinstance(step, int) or isinstance(step, bool):
        raise ValueError(f"{file}: step is {step!r:.50} and no number; select again, or remove the file")
    return step


def selected(run_dir: Path) -> Checkpoint | None:
    """The checkpoint that was chosen, None when none was.

    Raises:
        ValueError: If it is not there any more, or the file is damaged: another model would be a silent mistake.
    """
    step = selected_step(run_dir)
    if step is None:
        return None
    checkpoint = _of_step(run_dir, step)
    if checkpoint is None:
        raise ValueError(f"{run_dir / SELECTED} names step {step}, whose checkpoint is gone; select another one")
    return checkpoint


def _of_step(run_dir: Path, step: int) -> Checkpoint | None:
    return next((one for one in checkpoints_of(run_dir) if one.step == step), None)
