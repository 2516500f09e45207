"""One tracker of a run as verl's `Tracking` calls it: nothing that goes wrong in it ends a training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.run_dir import read_metrics
from common.trackers.backends import BACKENDS
from common.trackers.place import Place, keep_config, kept_config, place_of
from common.trackers.rows import Gpus, comparison, row_of, samples_of


class Tracker:
    """A tracker in the trainer's process.

    Args:
        place: The run as the tracker sees it.
        gpus: Those of the run on this machine.

    Raises:
        Exception: Of any class, if the tracker cannot be opened.
    """

    def __init__(self, place: Place, gpus: Gpus):
        self.place, self.gpus = place, gpus
        self.validated: list[int] = []  # steps whose answers were not sent yet
        self.said = False
        missing = place.missing()
        self.backend = BACKENDS[place.tracker](place)
        if getattr(self.backend, "is_new", False):
            missing = place.earlier()
        place.note(closed=False)
        for record in missing:
            self._try(self.backend.log, row_of(record["data"]), record["step"])

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Log a step: verl's numbers with the kit's next to them, and the answers of validations before it."""
        self._send_samples(before=step)
        self._try(self.backend.log, row_of(data, self.gpus.use()), step)
        if any(key.startswith("val-") for key in data):
            self.validated.append(step)

    def finish(self, exit_code: int | None = None) -> None:
        """Close it."""
        self._send_samples()
        if self._try(self.backend.finish, *([exit_code] if exit_code and self.place.tracker == "wandb" else [])):
            self.place.note(closed=True)

    def _send_samples(self, before: int | None = None) -> None:
        """Those answers are written in a thread of verl's, so a step's are whole when a later one is logged."""
        for step in [step for step in self.validated if before is None or step < before]:
            self.validated.remove(step)
            rows = samples_of(self.place.run_dir, step)
            if rows:
                self._try(self.backend.samples, rows, step)

    def _try(self, call: Callable[..., Any], *arguments: Any) -> bool:
        try:
            call(*arguments)
        except Exception as error:
            if not self.said:
                self.said = True
                say(self.place.tracker, error, "what it cannot take is missing there; metrics.jsonl has all")
            return False
        return True


def say(tracker: str, error: Exception, then: str) -> None:
    """Print what is wrong with a tracker; the launcher shows such a line."""
    words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    print(f"Tracker {tracker}: {words} ({then})", flush=True)


def attach(names: list[str], project: str, name: str, config: Any, run_dir: Path) -> dict[str, Tracker]:
    """Open the trackers of an attempt; one that cannot be opened is said, and left out.

    Args:
        names: Of ``BACKENDS``.
        project: verl's ``trainer.project_name``.
        name: verl's ``trainer.experiment_name``.
        config: verl's configuration as a dictionary.
        run_dir: Folder of the run.
    """
    opened: dict[str, Tracker] = {}
    gpus = Gpus(os.environ.get("CUDA_VISIBLE_DEVICES")) if names else None
    if names and config:
        keep_config(run_dir, config)
    for tracker in names:
        try:
            opened[tracker] = Tracker(place_of(tracker, project, name, config, run_dir), gpus)
        except Exception as error:
            say(tracker, error, "the run continues without it")
    return opened


def send_files(tracker: str, project: str, name: str, run_dir: Path) -> None:
    """Send the charts and the comparison to a tracker once the trainer has ended.

    Raises:
        Exception: Of any class, if the tracker does not take them.
    """
    place = place_of(tracker, project, name, kept_config(run_dir), run_dir)
    last, place.last = place.last, place.resumed  # nothing is trained again
    backend = BACKENDS[tracker](place)
    backend.files(sorted((run_dir / "charts").glob("*.png")), comparison(read_metrics(run_dir)), last)
    backend.finish()
