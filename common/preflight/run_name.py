"""Which run directory this launch uses: a new one, one to resume, or none."""

from __future__ import annotations

import os
import re
import sys
from datetime import datetime
from pathlib import Path

from common.checkpoints.integrity import newest_complete
from common.checkpoints.layout import Checkpoint
from common.files import outputs_folder
from common.preflight import resume
from common.preflight.findings import Problem
from common.preflight.knobs import Knobs
from common.preflight.model import ModelInfo
from common.preflight.self_play import stage_names
from common.run_dir import is_alive, read_run, short_model_name

OUTPUTS = outputs_folder(os.environ)  # a stage of self-play is a run inside a run
NAME = re.compile(r"\w[\w.-]{0,99}")


def choose_run(knobs: Knobs, model: ModelInfo | None) -> Path | None:
    """Resolve ``EXPERIMENT_NAME`` and return the run directory; what prevents its use goes to the errors."""
    short = short_model_name(model.path) if model else "demo"
    stamp = datetime.now().strftime("%m%d-%H%M%S")
    name = re.sub(r"[^\w.-]+", "-", f"{knobs.algorithm}-{short}-{stamp}")
    knobs.resolve("EXPERIMENT_NAME", name, "algorithm, model and time")
    name = knobs["EXPERIMENT_NAME"]
    if not NAME.fullmatch(name):
        knobs.error(
            "EXPERIMENT_NAME",
            "it names a folder under OUTPUTS_DIR",
            "use letters, digits, '.', '_' and '-'",
            value=name,
        )
        return None
    run_dir = OUTPUTS / name
    named = resume.named_checkpoint(knobs, OUTPUTS)
    if named and (problem := resume.fork_problem(knobs, named, run_dir)):
        knobs.error("RESUME", problem)
    knobs.resume_from = named.path if named else None
    if run_dir.exists():
        problem = problem_with_existing(knobs, run_dir, named)
        if problem:
            knobs.error("EXPERIMENT_NAME", problem, value=name)
    return run_dir


def problem_with_existing(knobs: Knobs, run_dir: Path, named: Checkpoint | None = None) -> Problem | None:
    """Return why a run directory that exists cannot be used, or None when it is resumed.

    Args:
        knobs: Their ``resume_from`` becomes the checkpoint to resume from.
        run_dir: Exists.
        named: The checkpoint that ``RESUME`` names.
    """
    try:
        run = read_run(run_dir)
    except ValueError as error:
        return Problem(str(error), "choose another name")
    if not run:
        return Problem(f"{run_dir.parent} has a folder of that name that is not a run", "choose another name")
    if is_alive(run, run_dir):
        where = f" on {run['host']}" if run.get("host") else ""
        return Problem(
            f"this run is under way (process {run.get('pid')}{where})",
            "choose another name, or stop it with Ctrl-C first",
        )
    if run.get("algorithm") != knobs.algorithm:
        return Problem(f"this run is of {run.get('algorithm')}", "choose another name")
    if knobs["RESUME"] == "never":
        return Problem("this run exists and RESUME=never", "choose another name")
    if ("stages" in run) != (knobs.values.get("SELF_PLAY") == "true"):
        return Problem(
            "this run is of the other kind, one with rounds and one without do not mix", "choose another name"
        )
    if "stages" in run:
        return _problem_with_rounds(knobs, run, run_dir.name)
    if named:
        own = named.run_dir == run_dir.resolve()
        return (
            None if own else Problem("this run exists, and RESUME names a checkpoint of another", "choose another name")
        )
    choice = newest_complete(run_dir)
    for skipped in choice.skipped:
        knobs.warn("", skipped)
    step = choice.checkpoint.step if choice.checkpoint else 0
    if choice.checkpoint and (problem := resume.unusable(knobs, choice.checkpoint)):
        return problem
    knobs.resume_from = choice.checkpoint.path if choice.checkpoint else None
    total = knobs.number("TOTAL_STEPS")
    if total and step >= total and not (run_dir / "model" / "config.json").is_file():
        return Problem(
            f"this run has all {total} steps but no model yet",
            f".venv/bin/python -m common.checkpoints merge {run_dir} makes it",
        )
    if total and step >= total:
        return Problem(
            f"this run has finished {step} of {total} steps",
            "raise TOTAL_EPOCHS (or TOTAL_STEPS) to train on, or choose another name",
        )
    if run.get("state") == "finished" and not _confirmed(run_dir, step):
        return Problem("this run is finished", "choose another name")
    where = f"the checkpoint of step {step}" if step else "the start, as it has no checkpoint yet"
    knobs.warn("", f"resuming {run_dir.name} ({run.get('state')}) from {where}")
    return None


def _problem_with_rounds(knobs: Knobs, run: dict, name: str) -> Problem | None:
    """Return why a run of self-play cannot resume, or None; it resumes at the stage that was cut."""
    done = [stage["name"] for stage in run["stages"]]
    for knob in ("MODEL_PATH", "LORA_RANK"):
        before = run.get("knobs", {}).get(knob)
        if before != knobs[knob]:
            return Problem(f"it was started with {knob}={before}, now {knob}={knobs[knob]}", "choose another name")
    names = stage_names(knobs.number("SELF_PLAY_ROUNDS"))
    left = [stage for stage in names if stage not in done]
    if not left:
        return Problem(
            f"this run has finished all {len(names)} stages",
            "raise SELF_PLAY_ROUNDS to train on, or choose another name",
        )
    knobs.warn("", f"resuming {name} ({run.get('state')}) at {left[0]}")
    return None


def _confirmed(run_dir: Path, step: int) -> bool:
    """Ask on a terminal whether a finished run is to be trained on; without one the answer is yes.

    The caller has raised the number of steps of a named run, which says what the user wants.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    print(f"{run_dir} is finished (step {step}). Train on from there? [Y/n] ", end="", file=sys.stderr, flush=True)
    return input().strip().lower() in ("", "y", "yes")
