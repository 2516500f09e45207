"""What a tracker needs to know of the run, and what of the run it has already."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.checkpoints.layout import STEP_NAME
from common.files import write_atomically
from common.run_dir import metrics_files, read_metrics, read_records, read_run

CONFIG_FILE = "trackers.config.json"  # of a run: verl's configuration as its trackers were given it
STATE_FILE = "trackers.json"  # of a run: tracker -> id of the run there, and whether the last attempt closed it


@dataclass
class Place:
    """A run as a tracker sees it.

    Args:
        tracker: Name of the tracker.
        project: Of the tracker.
        name: Of the run there.
        run_dir: Folder of the run.
        config: verl's configuration.
        knobs: As resolved.
        tags: Algorithm, model and the like.
        resumed: Step of the checkpoint that this attempt resumes from, 0 for none.
        last: The last step that earlier attempts have logged, 0 for none.
        known: What `note` has kept of this tracker.
    """

    tracker: str
    project: str
    name: str
    run_dir: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    knobs: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    resumed: int = 0
    last: int = 0
    known: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """Of the run, the same in each attempt."""
        return os.environ.get("WANDB_RUN_ID") or read_run(self.run_dir).get("id") or self.run_dir.name

    @property
    def goes_back(self) -> bool:
        """Whether steps are trained again that the tracker has, or may have lost when the trainer was killed."""
        return bool(self.known) and (self.last > self.resumed or not self.known.get("closed"))

    def missing(self) -> list[dict[str, Any]]:
        """Records of earlier attempts that the tracker does not have for certain, by step.

        A tracker that is new to the run, or a run that resumes from another's checkpoint, has none; of one that was not
        closed the end may be lost.
        """
        if not self.resumed or self.known.get("closed"):
            return []
        return self.earlier()

    def earlier(self) -> list[dict[str, Any]]:
        """Records of earlier attempts up to the checkpoint."""
        return [record for record in read_metrics(self.run_dir) if record["step"] <= self.resumed]

    def note(self, **facts: Any) -> None:
        """Keep what the next attempt must know."""
        self.known = {**self.known, **facts}
        path = self.run_dir / STATE_FILE
        write_atomically(path, json.dumps({**read_state(self.run_dir), self.tracker: self.known}, indent=2) + "\n")


def read_state(run_dir: Path) -> dict[str, dict[str, Any]]:
    """What was kept of each tracker of a run."""
    path = run_dir / STATE_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def keep_config(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Keep verl's configuration; a tracker opened again for the last files would get an empty one in its place."""
    write_atomically(run_dir / CONFIG_FILE, json.dumps(config, default=str, ensure_ascii=False) + "\n")


def kept_config(run_dir: Path) -> dict[str, Any]:
    """What `keep_config` kept; empty where it kept nothing."""
    path = run_dir / CONFIG_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def resumed_step(trainer: Mapping[str, Any]) -> int:
    """Step of the checkpoint that verl's ``trainer`` resumes from, 0 when it begins with none."""
    if trainer.get("resume_mode") == "disable":
        return 0
    found = STEP_NAME.search(str(trainer.get("resume_from_path") or ""))
    return int(found[1]) if found else 0


def place_of(tracker: str, project: str, name: str, config: Any, run_dir: Path) -> Place:
    """The place of this attempt.

    Args:
        tracker: Name of the tracker.
        project: verl's ``trainer.project_name``.
        name: verl's ``trainer.experiment_name``.
        config: verl's configuration as a dictionary, None where there is none.
        run_dir: Folder of the run.
    """
    run = read_run(run_dir)
    knobs = run.get("knobs", {})
    trainer = (config or {}).get("trainer", {})
    steps = [record["step"] for path in metrics_files(run_dir) for record in read_records(path)]
    words = (run.get("algorithm"), run.get("model_name"), knobs.get("VARIANT"), knobs.get("REWARD"))
    return Place(
        tracker,
        project,
        name,
        run_dir,
        config=config or {},
        knobs=knobs,
        tags=tuple(dict.fromkeys(str(word)[:64] for word in words if word)),
        resumed=resumed_step(trainer),
        last=max(steps, default=0),
        known=read_state(run_dir).get(tracker, {}),
    )
