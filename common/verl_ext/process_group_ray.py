"""For the device ``cpu``, the default process group of a Ray worker is on gloo alone.

Target: `initialize_global_process_group_ray`, verl/utils/distributed.py:83.

The reason is the one of ``process_group``; here the original takes the backend as an argument, and its callers give
none.

Upstream: no issue known.

Until: verl asks the platform (``PlatformBase``) for the backend of its process groups.
"""

from __future__ import annotations

from collections.abc import Callable


def replacement(original: Callable[..., None]) -> Callable[..., None]:
    """The original, always on gloo."""

    def initialize_global_process_group_ray(timeout_second: int | None = None, backend: str | None = None) -> None:
        original(timeout_second=timeout_second, backend="gloo")

    return initialize_global_process_group_ray


def on_gloo(timeout_second: int) -> None:
    """Start the group through verl's Ray function, replaced or not."""
    from verl.utils import distributed

    distributed.initialize_global_process_group_ray(timeout_second=timeout_second, backend="gloo")
