"""Without a GPU the weights of FSDP1 stay where they are; verl would load them to the device ``cpu:cpu``.

Target: `load_fsdp_model_to_gpu`, verl/utils/fsdp_utils.py:215.

verl calls it before each checkpoint and each hand-over of weights when it finds them in main memory. For FSDP2 it asks
the platform for a device; for FSDP1 it writes the device's name itself and appends a number.

Upstream: no issue known.

Until: verl asks the platform for FSDP1 too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def replacement(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """The original for FSDP2, nothing for FSDP1."""
    from verl.utils.fsdp_utils import fsdp_version

    def load(model: Any) -> None:
        if fsdp_version(model) != 1:
            original(model)

    return load
