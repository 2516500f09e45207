"""The process in which the bench runs a reward function: loads it and calls it as verl does.

Arguments behind the pipe: the Python file, the function's name, its parameters as JSON.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

from common.worker import WorkerNotStarted, serve

AGAIN_S = (0.5, 5.0)  # seconds of a call that is timed twice
BEAT_S = 0.01  # how often the event loop is looked at while an async function runs


def prepare() -> Callable[[tuple[str, Any]], Any]:
    """Loads the function and returns what answers the bench.

    Questions are ``("facts", None)`` and ``("call", [keyword arguments, ...])``; the calls of one question run at the
    same time.
    """
    path, name, parameters = Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    function = load(path, name)
    loop = asyncio.new_event_loop()
    call = partial(_call, function, parameters, {str(path), _source(function)})

    def answer(question: tuple[str, Any]) -> Any:
        what, calls = question
        return _facts(function) if what == "facts" else loop.run_until_complete(_together(call, calls))

    return answer


def load(path: Path, name: str) -> Any:
    """Loads a function from a file as verl's ``load_extern_object`` does.

    Raises:
        WorkerNotStarted: If the file cannot be imported or does not define the name.
    """
    spec = importlib.util.spec_from_file_location(f"custom_module_{hash(str(path))}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # the user's file may raise anything, SystemExit included
        raise WorkerNotStarted(f"cannot be imported: {describe(error, {str(path)})}") from error
    if not hasattr(module, name):
        here = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise WorkerNotStarted(f"not in {path}; it defines {', '.join(sorted(here)) or 'no function'}")
    function = getattr(module, name)
    if not callable(function):
        raise WorkerNotStarted(f"is {type(function).__name__} and not a function in {path}")
    return function


async def _together(call: Callable[..., Any], calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return await asyncio.gather(*(call(arguments) for arguments in calls))


async def _call(function: Any, parameters: dict, files: set[str], arguments: dict) -> dict[str, Any]:
    """Calls as the reward managers of verl do: a coroutine is awaited, anything else runs in a thread."""
    if inspect.iscoroutinefunction(function):
        beat = asyncio.ensure_future(_longest_gap())
        await asyncio.sleep(0)
        outcome = await _try_async(function, {**arguments, **parameters}, files)
        await asyncio.sleep(0)
        beat.cancel()
        return {**outcome, "blocked_s": await beat}
    run = partial(_try_again_if_slow, function, {**arguments, **parameters}, files)
    return await asyncio.get_running_loop().run_in_executor(None, run)


def _try_again_if_slow(function: Any, arguments: dict, files: set[str]) -> dict[str, Any]:
    """Asks once more after a slow call, and keeps the quicker time: the first call may have loaded a library."""
    outcome = _try(function, arguments, files)
    if AGAIN_S[0] < outcome["seconds"] < AGAIN_S[1]:
        outcome["seconds"] = min(outcome["seconds"], _try(function, arguments, files)["seconds"])
    return outcome


def _try(function: Any, arguments: dict, files: set[str]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        result = function(**arguments)
    except BaseException as error:  # the user's code may raise anything, SystemExit included
        return {"seconds": time.perf_counter() - started, **_failure(error, files)}
    return {"seconds": time.perf_counter() - started, **examine(result)}


async def _try_async(function: Any, arguments: dict, files: set[str]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        result = await function(**arguments)
    except BaseException as error:  # see _try
        return {"seconds": time.perf_counter() - started, **_failure(error, files)}
    return {"seconds": time.perf_counter() - started, **examine(result)}


async def _longest_gap() -> float:
    longest, last = 0.0, time.perf_counter()
    try:
        while True:
            await asyncio.sleep(BEAT_S)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    except asyncio.CancelledError:
        return max(longest, time.perf_counter() - last) - BEAT_S


def examine(result: Any) -> dict[str, Any]:
    """Returns what the bench keeps of a result: score, keys, and what is wrong with it for verl, or None."""
    problem = check_result(result)
    parts = dict(result) if isinstance(result, Mapping) else {}
    score = None if problem else float(parts.get("score", result) if parts else result)
    keys = sorted(map(str, parts)) if isinstance(result, Mapping) else None
    if inspect.iscoroutine(result):
        result.close()
    return {"score": score, "keys": keys, "problem": problem, "error": None}


def check_result(result: Any) -> str | None:
    """Returns what verl cannot use in a reward function's result, in words, or None."""
    if inspect.isawaitable(result):
        return "returned a coroutine, which verl awaits only for a function made with async def; make it one"
    parts: Mapping[str, Any] = {}
    if isinstance(result, Mapping):
        parts = result
        if "score" not in parts:
            return f"returned a dictionary without 'score': {sorted(map(str, parts))}"
        if "reward" in parts:
            return "returned a key named 'reward', which verl uses itself; call it something else"
        result = parts["score"]
    if result is None:
        return "returned None; return a number, or a dictionary with 'score'"
    if not isinstance(result, Real) or not math.isfinite(result):
        return f"returned the score {result!r:.80}; it must be a finite number"
    for name, value in parts.items():
        if value is None or (isinstance(value, Real) and not math.isfinite(value)):
            return f"returned {name}={value!r}; a part must be a finite number, or left out on every row"
    return None


def describe(error: BaseException, files: set[str]) -> str:
    """Names an exception with its message and the last line of the user's file that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    if isinstance(error, SyntaxError) and error.filename in files:
        return f"{type(error).__name__}: {error.msg} (line {error.lineno})"
    line = f" (line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {_short(str(error))}{line}"


def _failure(error: BaseException, files: set[str]) -> dict[str, Any]:
    return {"score": None, "keys": None, "problem": None, "error": describe(error, files)}


def _short(text: str, longest: int = 300) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _facts(function: Any) -> dict[str, Any]:
    import cloudpickle

    problem = None
    try:
        cloudpickle.dumps(function)
    except Exception as error:  # whatever the user's globals raise
        problem = f"{type(error).__name__}: {_short(str(error))}"
    return {"is_async": inspect.iscoroutinefunction(function), "pickle_problem": problem}


def _source(function: Any) -> str:
    try:
        return inspect.getsourcefile(inspect.unwrap(function)) or ""
    except TypeError:  # an object with __call__
        return ""


if __name__ == "__main__":
    serve(prepare)
