"""Who asked for it is told when a trainer of verl begins and how it ends, whatever it is started by.

Target: `main`, hydra/main.py:45.

verl's trainers are functions that Hydra calls; none of them says that it has ended, and an error that Hydra prints is
an exit status to the process around it. So the function is watched.

Upstream: no issue known.

Until: verl has callbacks for the begin and the end of a training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

End = Callable[[BaseException | None], None]  # called with the error that ended the trainer, None for a good end
listeners: list[Callable[[], End]] = []  # called when a trainer begins


def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
    """Hydra's decorator, around a function that is watched."""

    @functools.wraps(original)
    def main(*arguments: Any, **options: Any) -> Callable[[Callable], Callable]:
        decorate = original(*arguments, **options)
        return lambda task: decorate(_watched(task))

    return main


def _watched(task: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(task)
    def watched(*arguments: Any, **options: Any) -> Any:
        ends = [begin() for begin in listeners]
        error: BaseException | None = None
        try:
            return task(*arguments, **options)
        except BaseException as raised:
            error = raised
            raise
        finally:
            for end in ends:
                end(error)

    return watched
