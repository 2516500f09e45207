"""Patch: a process group for the device ``cpu``.

verl/utils/distributed.py:63 and :88 ask torch for the backend ``cpu:gloo,<device>:<backend>``. For the device
``cpu`` that names ``cpu`` twice, which torch refuses, and verl offers no hook there. Both functions are replaced
by a call of verl's own Ray variant with the backend that it takes as an argument.
"""

from __future__ import annotations

import os
import sys

import verl.utils.distributed as verl_distributed

from common.verl_source import expect_source

_BACKEND_LINE = 'f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"'
_original_ray = verl_distributed.initialize_global_process_group_ray


def initialize_global_process_group(timeout_second: int = 36000) -> tuple[int, int, int]:
    """Start the default process group of a torchrun process on gloo; returns (local rank, rank, world size)."""
    _original_ray(timeout_second=timeout_second, backend="gloo")
    return tuple(int(os.environ[name]) for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"))


def initialize_global_process_group_ray(timeout_second: int | None = None, backend: str | None = None) -> None:
    """Start the default process group of a Ray worker on gloo."""
    _original_ray(timeout_second=timeout_second, backend="gloo")


def apply() -> None:
    """Replace both functions; must run before verl's workers are imported, which copy the names."""
    if "verl.workers.engine_workers" in sys.modules:
        raise RuntimeError("common.cpu_backend.process_group must stand first in VERL_USE_EXTERNAL_MODULES")
    for function in (verl_distributed.initialize_global_process_group, _original_ray):
        expect_source(function, _BACKEND_LINE, "a process group on gloo for the device cpu")
    verl_distributed.initialize_global_process_group = initialize_global_process_group
    verl_distributed.initialize_global_process_group_ray = initialize_global_process_group_ray


apply()
