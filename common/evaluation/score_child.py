"""The process that scores answers: loads reward functions and calls them as verl does.

Questions are lists of ``(path, name, parameters as JSON, keyword arguments)``; the answer holds for each a
dictionary with ``score`` and ``parts``, or ``error``.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any

from common.rewards.bench.child import check_result, describe, load
from common.worker import WorkerNotStarted, serve

Call = tuple[str, str, str, dict[str, Any]]


@lru_cache(maxsize=64)
def function_of(path: str, name: str) -> Any:
    """A reward function, loaded once."""
    return load(Path(path), name)


@lru_cache(maxsize=64)
def parameters_of(text: str) -> dict[str, Any]:
    """Parameters from JSON."""
    return json.loads(text)


def prepare() -> Any:
    """Return what answers a list of calls."""
    loop = asyncio.new_event_loop()
    return lambda calls: loop.run_until_complete(_all(calls))


async def _all(calls: list[Call]) -> list[dict[str, Any]]:
    """Async functions run together, the others one after another."""
    return await asyncio.gather(*(_one(*call) for call in calls))


async def _one(path: str, name: str, parameters: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        result = function_of(path, name)(**arguments, **parameters_of(parameters))
        if inspect.isawaitable(result):
            result = await result
    except WorkerNotStarted as error:
        return {"error": f"{path}: {error}"}
    except BaseException as error:  # the user's code may raise anything, SystemExit included
        return {"error": describe(error, {path})}
    problem = check_result(result)
    if problem:
        return {"error": problem}
    if not isinstance(result, Mapping):
        return {"score": float(result), "parts": {}}
    parts = {str(key): float(value) if isinstance(value, Real) else str(value) for key, value in result.items()}
    return {"score": parts.pop("score"), "parts": parts}


if __name__ == "__main__":
    serve(prepare)
