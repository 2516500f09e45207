"""From one YAML file to many jobs: every combination of a grid, or values drawn at random.

job: {name: rate, algorithm: grpo, num_gpus: 1}
grid: {learning_rate: [1e-6, 5e-6], knobs.ROLLOUT_N: [4, 8]}          # 4 jobs
random: {knobs.KL_LOSS_COEF: {low: 1e-4, high: 1e-2, log: true}}      # drawn for each of them
trials: 3                                                             # times each combination; 1
seed: 1                                                               # of what is drawn; 1
"""

from __future__ import annotations

import copy
import itertools
import math
import random
from typing import Any

MAX_JOBS = 1_000
KEYS = {"job", "grid", "random", "trials", "seed"}


def jobs_of(plan: Any) -> list[dict[str, Any]]:
    """The requests that a sweep means, in the order of the grid.

    Raises:
        ValueError: If the plan holds something else than is shown above.
    """
    if not isinstance(plan, dict) or not isinstance(plan.get("job"), dict):
        raise ValueError("a sweep has `job:` with the fields of a job, and `grid:` or `random:`")
    if unknown := sorted(map(str, set(plan) - KEYS)):
        raise ValueError(f"{unknown[0]}: a sweep has {', '.join(sorted(KEYS))}")
    grid, drawn = plan.get("grid") or {}, plan.get("random") or {}
    trials, dice = plan.get("trials", 1), random.Random(plan.get("seed", 1))
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise ValueError("grid: each field has a list of values, learning_rate: [1e-6, 5e-6]")
    if not isinstance(drawn, dict) or not (grid or drawn):
        raise ValueError("a sweep has `grid:` or `random:` with the fields that change")
    if not isinstance(trials, int) or isinstance(trials, bool) or trials < 1:
        raise ValueError(f"trials: {trials!r}: a whole number from 1")
    count = trials * math.prod(len(values) for values in grid.values())
    if count > MAX_JOBS:
        raise ValueError(f"this sweep has {count:,} jobs; at most {MAX_JOBS:,}")
    made = []
    for values in itertools.product(*grid.values()):
        for _ in range(trials):
            chosen = dict(zip(grid, values, strict=True)) | {
                name: _draw(name, how, dice) for name, how in drawn.items()
            }
            made.append(_job(plan["job"], chosen, len(made) + 1))
    return made


def _job(base: dict[str, Any], chosen: dict[str, Any], number: int) -> dict[str, Any]:
    job = copy.deepcopy(base)
    for name, value in chosen.items():
        knob = str(name).removeprefix("knobs.")
        (job if knob == name else job.setdefault("knobs", {}))[knob] = value
    name = str(base.get("name") or base.get("algorithm") or "sweep")
    said = ", ".join(f"{name}={value}" for name, value in chosen.items())
    job["name"] = f"{name}-{number}"
    job["description"] = "\n".join(filter(None, [str(base.get("description") or ""), said]))
    job["tags"] = [*(base.get("tags") or []), f"sweep:{name}"[:100]]
    return job


def _draw(name: str, how: Any, dice: random.Random) -> Any:
    """A value of a list, or a number between low and high, even in its logarithm with `log: true`."""
    if isinstance(how, list) and how:
        return dice.choice(how)
    try:
        low, high, log = float(how["low"]), float(how["high"]), how.get("log", False)
        if set(how) - {"low", "high", "log"} or not low < high or (log and low <= 0):
            raise ValueError
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ValueError(f"random: {name}: a list, or {{low: 1e-6, high: 1e-4, log: true}}") from None
    value = math.exp(dice.uniform(math.log(low), math.log(high))) if log else dice.uniform(low, high)
    return float(f"{value:.4g}")
