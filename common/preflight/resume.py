"""From which checkpoint a run resumes: ``RESUME=auto|never|<path>``."""

from __future__ import annotations

from pathlib import Path

from common.checkpoints.integrity import newest_complete, problems
from common.checkpoints.layout import Checkpoint, checkpoint_at, checkpoints_of
from common.checkpoints.pickles import strange_calls
from common.preflight.extensions import find_path
from common.preflight.findings import Problem
from common.preflight.knobs import SUPERVISED, Knobs
from common.run_dir import read_run

WORDS = ("auto", "never")


def named_checkpoint(knobs: Knobs, outputs: Path) -> Checkpoint | None:
    """The checkpoint that ``RESUME=<path>`` names; None for ``auto`` and ``never``, or when it cannot be used.

    A run directory means its newest complete checkpoint. What is wrong goes to the errors.
    """
    text = knobs["RESUME"]
    if text in WORDS:
        return None
    path = find_path(text)
    if path is None or not path.is_dir():
        knobs.error("RESUME", "no such folder", "give auto, never, or a run or checkpoint to resume from", value=text)
        return None
    checkpoint = checkpoint_at(path)
    if checkpoint is None and checkpoints_of(path):
        choice = newest_complete(path)
        for skipped in choice.skipped:
            knobs.warn("", skipped)
        checkpoint = choice.checkpoint
    if checkpoint is None:
        knobs.error(
            "RESUME", "no complete checkpoint in it", "see .venv/bin/python -m common.checkpoints list", value=text
        )
        return None
    found = problems(checkpoint)
    if found:
        knobs.error(
            "RESUME",
            f"this checkpoint is not complete: {found[0]}",
            "name another (.venv/bin/python -m common.checkpoints list RUN)",
            value=text,
        )
        return None
    own = checkpoint.run_dir.resolve().is_relative_to(outputs.resolve())
    if not own and not _is_harmless(knobs, checkpoint):
        return None
    return checkpoint


def _is_harmless(knobs: Knobs, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint from elsewhere holds data only; verl loads it so that it may run code."""
    strange = strange_calls(checkpoint.path)
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        knobs.error(
            "RESUME",
            f"this checkpoint would run code when verl loads it: {', '.join(strange[:3])}{more}",
            "take only its weights, which are loaded as data: .venv/bin/python -m common.checkpoints merge "
            f"{checkpoint.run_dir}",
        )
    return not strange


def unusable(knobs: Knobs, checkpoint: Checkpoint) -> Problem | None:
    """Return why a complete checkpoint cannot be resumed with the present knobs, and what to do; None when it can."""
    if checkpoint.is_supervised != (knobs.algorithm in SUPERVISED):
        kind = "SFT or DPO" if checkpoint.is_supervised else "RL"
        return Problem(f"it is of {kind}", f"to train its model with {knobs.algorithm} {_from_weights(checkpoint)}")
    if knobs.algorithm == "ppo" and "critic" not in checkpoint.roles:
        return Problem("it has no critic", _from_weights(checkpoint))
    world, gpus = checkpoint.world_size, knobs.number("N_GPUS") * knobs.number("NNODES")
    if world and gpus and world != gpus:
        return Problem(
            f"it was written by {world} GPUs and N_GPUS is {gpus}: verl loads optimiser, learning rate schedule and "
            "random state on the same number only",
            f"set N_GPUS={world}, or {_from_weights(checkpoint)} (only the weights are kept, not the optimiser)",
        )
    try:
        before = read_run(checkpoint.run_dir)
    except ValueError as error:
        return Problem(str(error), "choose another checkpoint")
    # verl's SFT trainer writes the place in the data once for each group of GPUs that shares sequences
    kept = ("MODEL_PATH", "LORA_RANK", "TRAIN_ENGINE", "MODEL_PARALLEL") + (
        ("SEQUENCE_PARALLEL",) if checkpoint.is_supervised else ()
    )
    for name in kept:
        value = before.get("knobs", {}).get(name)
        if value is not None and value != knobs.values.get(name, value):
            return Problem(f"it was started with {name}={value}, now {name}={knobs[name]}", "choose another name")
    was, mode = (
        mode or "sync" for mode in (before.get("knobs", {}).get("TRAINER_MODE"), knobs.values.get("TRAINER_MODE"))
    )
    if was != mode and "sync" in (was, mode):  # the others fetch prompts one by one, and have answers under way
        return Problem(
            f"it was written with TRAINER_MODE={was}, whose place in the data the mode {mode} cannot continue from",
            f"set TRAINER_MODE={was}, or {_from_weights(checkpoint)}",
        )
    return None


def _from_weights(checkpoint: Checkpoint) -> str:
    run = checkpoint.run_dir
    return f"run .venv/bin/python -m common.checkpoints merge {run} and start a new run with MODEL_PATH={run}/model"


def fork_problem(knobs: Knobs, checkpoint: Checkpoint, run_dir: Path) -> Problem | None:
    """Return why a run cannot resume from the checkpoint that ``RESUME`` names, or None; says what will happen."""
    problem = unusable(knobs, checkpoint)
    if problem:
        return problem
    total = knobs.number("TOTAL_STEPS")
    if total and checkpoint.step >= total:
        return Problem(f"it has all {total} steps", "raise TOTAL_EPOCHS (or TOTAL_STEPS) to train on")
    own = checkpoint.run_dir == run_dir.resolve()
    later = [other.step for other in checkpoints_of(run_dir) if other.step > checkpoint.step] if own else []
    aside = f"; its later checkpoints {later} are set aside" if later else ""
    where = "back to" if own else f"on from {checkpoint.run_dir.name},"
    knobs.warn("", f"going {where} step {checkpoint.step}{aside}")
    return None
