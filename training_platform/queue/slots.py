"""What jobs take while they run: GPUs of this machine, one job each, and places for jobs on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.preflight.environment import GpuUse, gpu_use
from common.preflight.gpus import DriverError, nvidia_smi, visible

LOOK_AGAIN = 2.0  # seconds between two questions to nvidia-smi


def gpus_here() -> tuple[str, ...]:
    """Indices of the GPUs that this process may use; none where the driver does not tell."""
    try:
        return tuple(row[0] for row in visible(nvidia_smi("--query-gpu=index,uuid")))
    except DriverError:
        return ()


@dataclass(frozen=True)
class Slots:
    """What there is.

    Args:
        gpus: Names of the GPUs, as CUDA_VISIBLE_DEVICES takes them.
        cpu_jobs: How many jobs may run on the CPU at a time.
    """

    gpus: tuple[str, ...]
    cpu_jobs: int

    def names(self, kind: str) -> tuple[str, ...]:
        """The slots of a kind, ``gpu`` or ``cpu``."""
        return self.gpus if kind == "gpu" else tuple(f"cpu{n}" for n in range(self.cpu_jobs))

    @property
    def lends(self) -> str:
        """The kind of slot that what runs beside the jobs gets, as an evaluation."""
        return "gpu" if self.gpus else "cpu"

    def choose(self, free: Sequence[str], count: int, nnodes: int) -> list[str] | None:
        """Slots for a job, None when it has to wait.

        Args:
            free: Names of those that nobody has.
            count: How many it needs.
            nnodes: On how many machines; here there is one.
        """
        return list(free[:count]) if len(free) >= count else None

    def needed(self, num_gpus: int | None, device: str | None, nnodes: int = 1) -> dict[str, int]:
        """What a job takes.

        Args:
            num_gpus: As asked for; None: all GPUs, or a place on the CPU where there are none.
            device: ``DEVICE`` as asked for, None when it was not.
            nnodes: Machines; here there is one.
        """
        if device == "cuda":
            return {"gpu": num_gpus or max(1, len(self.gpus))}
        if num_gpus == 0 or device == "cpu" or (num_gpus is None and not self.gpus):
            return {"cpu": 1}
        return {"gpu": num_gpus or len(self.gpus)}

    def problem(self, needed: dict[str, int], nnodes: int = 1) -> str | None:
        """Why this can never run here, or None."""
        for kind, count in needed.items():
            there = len(self.names(kind))
            if count > there and kind == "gpu":
                return f"needs {count} GPUs and this server has {there}; num_gpus=0 trains on the CPU"
            if count > there:
                return "this server takes no jobs on the CPU (--cpu_jobs)"
        return None


class Holders:
    """Who holds a GPU that no job has.

    Args:
        look: Tells of all GPUs.
        clock: Seconds from anywhere.
    """

    def __init__(self, look: Callable[[], Sequence[GpuUse]] = gpu_use, clock: Callable[[], float] = time.monotonic):
        self._look = look
        self._clock = clock
        self._found: dict[str, str] = {}
        self._looked = -LOOK_AGAIN

    def of(self, gpus: Sequence[str]) -> dict[str, str]:
        """Each of the GPUs that processes hold, with their names."""
        if gpus and self._clock() - self._looked >= LOOK_AGAIN:
            self._found = {one.index: "; ".join(one.holders) for one in self._look() if one.holders}
            self._looked = self._clock()
        return {gpu: self._found[gpu] for gpu in gpus if gpu in self._found}
