"""How many processes Ray starts next to the GPUs' own, from the CPU cores of the machine.

What verl asks Ray for, whatever the machine has: 3 CPUs for each GPU (`RayResourcePool.get_placement_groups`), one for
TransferQueue's controller and one for each of its storage units (8 in transfer_queue.yaml). One GPU with fewer than 12
cores waits for them without end. Ray's CPUs are a count, not a limit, so Ray gets as many as are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

CPUS_PER_GPU = 3
CONTROLLER = 1
MOST_WORKERS = 8  # verl's default for each kind of worker
CORES_PER_WORKER = 4


@dataclass(frozen=True)
class RayCores:
    """Counts for Ray on one node.

    Args:
        cpus: What Ray gets (``num_cpus``).
        asked: What verl asks for.
        storage_units: TransferQueue's processes that hold samples.
        agent_workers: Processes that prepare prompts and store answers, 0.8 GB of memory each.
        reward_workers: Processes that call the reward function, 0.6 GB each.
    """

    cpus: int
    asked: int
    storage_units: int
    agent_workers: int
    reward_workers: int

    @property
    def environment(self) -> dict[str, str]:
        """As variables that common/config/rl/hardware/cuda.yaml reads."""
        names = ("cpus", "storage_units", "agent_workers", "reward_workers")
        variables = ("RAY_CPUS", "STORAGE_UNITS", "AGENT_WORKERS", "REWARD_WORKERS")
        return {variable: str(getattr(self, name)) for name, variable in zip(names, variables, strict=True)}


def ray_cores(cores: int, gpus: int) -> RayCores:
    """Counts for a node with so many cores and GPUs; the storage units get what the GPUs leave, at least one."""
    left = cores - CPUS_PER_GPU * gpus - CONTROLLER
    units = max(1, min(MOST_WORKERS, left // 2))
    workers = max(2, min(MOST_WORKERS, cores // CORES_PER_WORKER))
    asked = CPUS_PER_GPU * gpus + CONTROLLER + units
    return RayCores(max(cores, asked), asked, units, workers, workers)
