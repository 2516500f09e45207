"""``TRACKERS`` and ``USE_WANDB``: which trackers a run logs to; none of them may stop it with a question."""

from __future__ import annotations

import difflib

from common.preflight.knobs import AUTO, Knobs
from common.trackers.logins import SERVICES, found, problem_of
from common.wandb_login import wandb_login

ALWAYS = ("console", "file", "tensorboard")


def resolve_trackers(knobs: Knobs) -> None:
    """Choose the trackers: those named, or with ``auto`` those with a login; `wanted` has them then.

    ``USE_WANDB`` is older than ``TRACKERS`` and stays: true adds W&B to whatever is named, false keeps it out.
    """
    given, reasons, logged_in = knobs["TRACKERS"], found(), wandb_login()
    listed = _named(given)
    if given == AUTO:
        knobs.resolve("USE_WANDB", str(bool(logged_in)).lower(), logged_in or "no WANDB_API_KEY and no wandb login")
        listed = list(reasons)
        knobs.resolve("TRACKERS", ",".join(listed) or "none", "; ".join(reasons.values()) or "no other login")
    else:
        knobs.resolve("USE_WANDB", str("wandb" in listed).lower(), f"TRACKERS={given}")
    if knobs["USE_WANDB"] == "true" and "wandb" not in listed:
        listed = ["wandb", *listed]
    knobs.values["TRACKERS"] = ",".join(listed) or "none"
    if not knobs["WANDB_RUN_NAME"]:
        knobs.values["WANDB_RUN_NAME"] = knobs["EXPERIMENT_NAME"]


def _named(given: str) -> list[str]:
    named = [] if given in (AUTO, "none") else [part.strip() for part in given.split(",")]
    return list(dict.fromkeys(name for name in named if name))


def wanted(knobs: Knobs) -> list[str]:
    """The trackers of a run whose knobs are resolved."""
    return [] if knobs["TRACKERS"] == "none" else knobs["TRACKERS"].split(",")


def loggers(knobs: Knobs) -> str:
    """The list for verl: its ``trainer.logger``."""
    return f"[{','.join((*ALWAYS, *wanted(knobs)))}]"


def check_trackers(knobs: Knobs) -> None:
    """Each tracker is one that verl has, is installed, and will not ask for a key."""
    given = knobs["TRACKERS"]  # not resolved yet; `resolve_trackers` takes only those that work
    named = _named(given)
    if knobs["USE_WANDB"] == "false" and "wandb" in named:
        knobs.error("TRACKERS", "names wandb, and USE_WANDB=false keeps it out", "leave one of the two at auto")
    for name in named:
        if name not in SERVICES:
            near = difflib.get_close_matches(name, [*SERVICES, "none", AUTO], n=1)
            fix = f"did you mean {near[0]}?" if near else f"auto, none, or some of {', '.join(SERVICES)}"
            knobs.error("TRACKERS", f"there is no tracker {name!r}", fix, value=given)
        elif problem := problem_of(name):
            knobs.error("TRACKERS", *problem, value=given)
    if knobs["USE_WANDB"] == "true" and "wandb" not in named and (problem := problem_of("wandb")):
        knobs.error("USE_WANDB", "you are not logged in" if "logged" in problem[0] else problem[0], problem[1])
