"""Several runs side by side: what each has reached, and what was set differently."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from common.files import read_regular
from common.metrics.names import BY_NAME
from common.small_files import parse_yaml
from monitor.columns import Columns
from monitor.plain import plain

# Differ between any two runs and say nothing about them.
_NAMES_THE_RUN = {"EXPERIMENT_NAME", "WANDB_RUN_NAME"}
_NAMES_IN_CONFIG = (
    "trainer.experiment_name",
    "trainer.default_local_dir",
    "trainer.rollout_data_dir",
    "trainer.validation_data_dir",
    "hydra.",
)
MAX_CONFIG = 2 << 20  # bytes of a config file


@dataclass(frozen=True)
class Reached:
    """A metric of a run: its last value, its best and the step of that; best is None where neither way is better."""

    final: float
    best: float | None
    best_step: int | None


def reached(columns: Columns, name: str) -> Reached | None:
    """What a run has reached in a metric, None when it has no number of it."""
    steps, values = columns.series(name)
    finite = np.isfinite(values)
    if not finite.any():
        return None
    steps, values = steps[finite], values[finite]
    better = BY_NAME[name].better if name in BY_NAME else ""
    if better:
        place = int(values.argmax() if better == "higher" else values.argmin())
        return Reached(float(values[-1]), float(values[place]), int(steps[place]))
    return Reached(float(values[-1]), None, None)


def differences(runs: dict[str, dict[str, str]]) -> list[tuple[str, list[str | None]]]:
    """The settings that are not the same in all runs.

    Args:
        runs: Run id to its settings.

    Returns:
        Name and the value in each run (None: not set there), in the order of the first run that has the name.
    """
    names = list(dict.fromkeys(name for settings in runs.values() for name in settings))
    rows = [(name, [settings.get(name) for settings in runs.values()]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def knobs_of(run: dict[str, Any]) -> dict[str, str]:
    """The knobs of run.json, and what it ran on."""
    found: dict[str, str] = {}
    for part in ("knobs", "versions"):
        values = run.get(part)
        if isinstance(values, dict):
            found |= {str(name): str(value) for name, value in values.items() if name not in _NAMES_THE_RUN}
    if run.get("git_commit"):
        found["git_commit"] = str(run["git_commit"])[:12]
    return found


def config_of(path: Path | None) -> dict[str, str]:
    """The composed config (.hydra/config.yaml), dotted key to value; empty when it cannot be read."""
    if path is None:
        return {}
    try:
        found = path.stat()
        return _config(path, found.st_mtime_ns, found.st_size) if found.st_size <= MAX_CONFIG else {}
    except OSError:
        return {}


@lru_cache(maxsize=64)
def _config(path: Path, changed: int, size: int) -> dict[str, str]:
    try:
        tree = parse_yaml(read_regular(path, MAX_CONFIG))
    except (ValueError, OSError):
        return {}
    flat: dict[str, str] = {}
    _flatten(tree, "", flat)
    return {plain(name): plain(value) for name, value in flat.items() if not name.startswith(_NAMES_IN_CONFIG)}


def _flatten(node: object, prefix: str, into: dict[str, str]) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            _flatten(value, f"{prefix}.{key}" if prefix else str(key), into)
    else:
        into[prefix] = str(node)
