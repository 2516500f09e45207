"""What this host has, found without importing torch."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

import psutil

from common.plan.machine import Gpus

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
        capability: Compute capability of the least GPU, 8.9 for example; None when it is not known.
    """

    gpu_memory: tuple[int, ...]
    cores: int
    memory: int
    planned: bool = False
    nodes: int = 1
    capability: float | None = None


def this_machine() -> Machine:
    """Look at this host."""
    gpus = visible_gpus()
    memory = tuple(int(float(size) * 2**20) for size, _ in gpus)
    capabilities = [float(capability) for _, capability in gpus if NUMBER.fullmatch(capability)]
    free = psutil.virtual_memory().available
    return Machine(memory, len(os.sched_getaffinity(0)), free, capability=min(capabilities, default=None))


def planned_machine(gpus: Gpus) -> Machine:
    """A machine that is not here, with a rollout engine and flash-attn installed."""
    memory = (gpus.memory,) * gpus.per_node
    return Machine(memory, cores=16 * gpus.per_node, memory=2**62, planned=True, nodes=gpus.nodes)


def visible_gpus() -> list[tuple[str, str]]:
    """Memory in MiB and compute capability of each NVIDIA GPU that ``CUDA_VISIBLE_DEVICES`` leaves visible."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 3]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        wanted = [name.strip() for name in chosen.split(",") if name.strip()]
        rows = [row for name in wanted for row in rows if name == row[0] or row[1].startswith(name)]
    return [(row[2], row[3]) for row in rows if NUMBER.fullmatch(row[2])]


def has_package(name: str) -> bool:
    """Whether a Python package is installed, without importing it."""
    return importlib.util.find_spec(name) is not None
