"""What this host has, found without importing torch."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass

import psutil

from common.plan.machine import NETWORK, Gpus
from common.preflight.gpus import DriverError, nvidia_smi, visible

NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class Machine:
    """A host.

    Args:
        gpu_memory: Memory of each visible GPU, bytes; empty without one.
        cores: CPU cores this process may use.
        memory: Host memory available now, bytes.
        planned: It is not this host but one to plan for.
        nodes: How many of it are planned for.
        network: Between them, Gbit/s of each.
        capability: Compute capability of the least GPU, 8.9 for example; None when it is not known.
        gpu_problem: Why its driver does not tell of GPUs, empty when it does or there is none.
    """

    gpu_memory: tuple[int, ...]
    cores: int
    memory: int
    planned: bool = False
    nodes: int = 1
    network: float = NETWORK
    capability: float | None = None
    gpu_problem: str = ""


def this_machine() -> Machine:
    """Look at this host."""
    try:
        gpus, problem = visible_gpus(), ""
    except DriverError as error:
        gpus, problem = [], str(error)
    memory = tuple(int(float(size) * 2**20) for size, _ in gpus)
    capabilities = [float(capability) for _, capability in gpus if NUMBER.fullmatch(capability)]
    free = psutil.virtual_memory().available
    capability = min(capabilities, default=None)
    return Machine(memory, len(os.sched_getaffinity(0)), free, capability=capability, gpu_problem=problem)


def planned_machine(gpus: Gpus) -> Machine:
    """A machine that is not here, with a rollout engine and flash-attn installed."""
    memory = (gpus.memory,) * gpus.per_node
    return Machine(memory, cores=16 * gpus.per_node, memory=2**62, planned=True, nodes=gpus.nodes, network=gpus.network)


def visible_gpus() -> list[tuple[str, str]]:
    """Memory in MiB and compute capability of each NVIDIA GPU that ``CUDA_VISIBLE_DEVICES`` leaves visible.

    Raises:
        DriverError: If there is a driver that does not work.
    """
    rows = visible(nvidia_smi("--query-gpu=index,uuid,memory.total,compute_cap"))
    return [(memory, capability) for _, _, memory, capability in rows if NUMBER.fullmatch(memory)]


def has_package(name: str) -> bool:
    """Whether a Python package is installed, without importing it."""
    return importlib.util.find_spec(name) is not None
