"""What runs jobs, as the queue asks for it: this machine (`local.py`) or a Ray cluster (`ray_jobs.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from training_platform.queue.store import Job


class Backend(Protocol):
    """Starts jobs and tells how they are. No call waits for a network: the caller holds the store's lock.

    ``name`` is what the database keeps of it, ``problem`` why it cannot do its work now ("": it can).
    """

    name: str
    problem: str

    def open(self) -> None:
        """Begin to look."""

    def close(self) -> None:
        """End; the jobs go on."""

    def start(self, job: Job, number: int, assigned: Sequence[str], added: Mapping[str, str], kit: Path) -> int | None:
        """Start a job; returns its process id where it has one here.

        Raises:
            OSError: If it cannot be started.
        """

    def is_alive(self, job: Job) -> bool | None:
        """Whether its last start is not over; None: not known now."""

    def has_begun(self, job: Job) -> bool:
        """Of a start that is not alive: whether it was ever taken."""

    def refusal(self, job: Job) -> str:
        """Why a start was not taken, "" when it was."""

    def status(self, job: Job) -> int | None:
        """Exit status of train.sh, None when it is not known."""

    def pid(self, job: Job) -> int | None:
        """Its process, None when that is not on this machine."""

    def run_of(self, job: Job, run_dir: Path) -> dict[str, Any]:
        """run.json, when its last start has written it; else empty."""

    def lost(self, job: Job) -> str:
        """What of the machine has ended it, "" when nothing has."""

    def said(self, job: Job) -> list[str]:
        """The errors that its train.sh has printed; else the last line."""

    def stop(self, job: Job, kill: bool) -> None:
        """Ask it to end, or end it at once."""
