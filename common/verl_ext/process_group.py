"""For the device ``cpu``, the default process group of a torchrun process is on gloo alone.

Target: `initialize_global_process_group`, verl/utils/distributed.py:62.

verl asks torch for the backend ``cpu:gloo,<device>:<backend>``. For the device ``cpu`` that names ``cpu`` twice, which
torch refuses. The function is replaced by verl's own Ray variant, which takes the backend as an argument.

Upstream: no issue known.

Until: verl asks the platform (``PlatformBase``) for the backend of its process groups.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from common.verl_ext.process_group_ray import on_gloo


def replacement(original: Callable[..., tuple[int, int, int]]) -> Callable[..., tuple[int, int, int]]:
    """The function for gloo; returns (local rank, rank, world size) as the original does."""

    def initialize_global_process_group(timeout_second: int = 36000) -> tuple[int, int, int]:
        on_gloo(timeout_second)
        return tuple(int(os.environ[name]) for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"))

    return initialize_global_process_group
