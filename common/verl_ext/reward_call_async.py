"""A reward function that is a coroutine and raises is counted, its error written down and its answer scored 0.

Target: `_call_with_kwargs_async`, verl/trainer/ppo/reward.py:41.

verl turns the exception into a lost answer, silently. ``common.rewards.errors`` counts it, and the run
ends when it is more than a rare accident.

Upstream: https://github.com/verl-project/verl/issues/4417 (open) asks for a way to handle rewards that fail.

Until: verl reports how many answers of a step were lost to exceptions, and keeps them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from common.rewards.errors import this_run


def replacement(original: Callable[..., Any]) -> Callable[..., Awaitable[dict[str, Any]]]:
    """The call through the run's counter of errors."""
    errors = this_run()

    async def call(raw_fn: Callable, extra: dict[str, Any], /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return await errors.call_async(raw_fn, *args, **{**kwargs, **extra})

    return call
