"""Metrics go to loggers of the kit too, whatever ``trainer.logger`` names.

Target: `Tracking.__init__`, verl/utils/tracking.py:62.

Upstream: no issue known; verl takes only the loggers that it has.

Until: verl lets others add loggers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

loggers: list[Callable[[], Any]] = []  # each makes an object with a method ``log(data=, step=)``


def replacement(original: Callable[..., None]) -> Callable[..., None]:
    """The original, and the loggers next to its own."""

    def __init__(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.logger |= {f"kit {number}": make() for number, make in enumerate(loggers)}

    return __init__
