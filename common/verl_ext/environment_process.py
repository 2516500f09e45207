"""The processes in which environments run: ``python -m common.verl_ext.environment_process PIPE FILE``.

One process loads the file of ``ENV_PATH`` and forks a child for each episode, so that an episode that hangs or crashes
takes no other one with it, and states of two episodes never mix. A child talks to the agent loop over a socket of its
own and ends when that closes. It ends too when its parent does, and the alarm ends one that hangs.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import math
import os
import random
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from types import ModuleType
from typing import Any

MAX_CHARACTERS = 100_000  # of an observation or an error that goes back
CLASS = "Environment"
SUCCESS = ("success", "is_success")  # of the info dictionary, as Gymnasium's libraries name it
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
STEP_FORMS = "(observation, reward, done), the same with info, or Gymnasium's five with terminated, truncated and info"


def load_environment(path: Path) -> Callable[[], Any]:
    """What makes the environment of one episode.

    Args:
        path: File with a class ``Environment``, or with functions ``reset`` and ``step``.

    Raises:
        ValueError: If it has neither.
    """
    spec = importlib.util.spec_from_file_location("_kit_environment", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["_kit_environment"] = module
    spec.loader.exec_module(module)
    made = getattr(module, CLASS, module)
    missing = [name for name in ("reset", "step") if not callable(getattr(made, name, None))]
    if missing:
        where = f"its class {CLASS}" if made is not module else f"it has no class {CLASS}, and the module"
        raise ValueError(f"{where} has no {' and no '.join(missing)}; write reset(row) and step(action)")
    return made if not isinstance(made, ModuleType) else lambda: module


def seed_of(seed: int, row: dict[str, Any]) -> int:
    """Seed of an episode: equal for all answers to a row, so that a group starts from one state."""
    text = json.dumps(row, sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(f"{seed} {text}".encode()).digest()[:4], "big")


def observed(value: Any) -> str:
    """The text of an observation; ``""`` for None."""
    text = "" if value is None else str(value)
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else text[:half] + text[-half:]


def after_reset(result: Any) -> str:
    """The first observation from what ``reset`` returned: it, or Gymnasium's ``(observation, info)``."""
    if isinstance(result, tuple):
        if len(result) != 2 or not isinstance(result[1], dict):
            raise ValueError("reset returned a tuple that is not (observation, info)")
        result = result[0]
    return observed(result)


def after_step(result: Any) -> tuple[str, float, bool, bool]:
    """Observation, reward, whether the episode is over, and whether it succeeded, from what ``step`` returned.

    Without ``info["success"]`` or ``info["is_success"]``, an episode has succeeded when it ends with a reward above 0.

    Raises:
        ValueError: If it is none of the forms, or the reward is no finite number.
    """
    if not isinstance(result, tuple) or len(result) not in (3, 4, 5):
        raise ValueError(f"step returned {str(result)[:80]!r}; it must return {STEP_FORMS}")
    observation, reward, done, *rest = result
    truncated = bool(rest.pop(0)) if len(rest) == 2 else False
    info = rest[0] if rest else {}
    if not isinstance(info, dict):
        raise ValueError(f"step returned {str(info)[:80]!r} as info; it must be a dictionary")
    try:
        number = float(reward)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"step returned the reward {str(reward)[:80]!r}; it must be a finite number")
    said = [bool(info[name]) for name in SUCCESS if name in info]
    success = said[0] if said else bool(done) and number > 0
    return observed(observation), number, bool(done) or truncated, success


def answer(environment: Any, question: tuple[str, Any]) -> tuple[str, Any]:
    """Reset or step; ``("ok", result)``, or ``("error", what it raised, in words)``."""
    name, value = question
    try:
        if name == "reset":
            return "ok", after_reset(environment.reset(value))
        return "ok", after_step(environment.step(value))
    except Exception as error:
        return "error", f"{name} raised {type(error).__name__}: {error}"[:MAX_CHARACTERS]


def play(make: Callable[[], Any], pipe: Connection) -> None:
    """One episode: a seed, then questions until the other end closes."""
    seed = pipe.recv()
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    environment, failure = None, ""
    while True:
        try:
            limit_s, question = pipe.recv()
        except (EOFError, ConnectionError):
            break
        signal.setitimer(signal.ITIMER_REAL, limit_s + 1)  # the loop has given up by then
        if environment is None and not failure:
            try:
                environment = make()
            except Exception as error:
                failure = f"{CLASS}() raised {type(error).__name__}: {error}"[:MAX_CHARACTERS]
        reply = ("error", failure) if failure else answer(environment, question)
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            pipe.send(reply)
        except ConnectionError:
            break
    signal.setitimer(signal.ITIMER_REAL, 1)
    close = getattr(environment, "close", None)
    if callable(close):
        close()


def _child(make: Callable[[], Any], parent: Connection, handle: int, mother: int) -> None:
    """What a forked process does; it never returns."""
    status = 1
    try:
        parent.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() == mother:
            play(make, Connection(handle))
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    """Load the file, say so, then fork a child for each socket that comes in."""
    pipe = Connection(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that end leave nothing behind
    try:
        make = load_environment(Path(sys.argv[2]))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send(None)
    mother = os.getpid()
    while True:
        try:
            handle = recv_handle(pipe)
        except (EOFError, ConnectionError, RuntimeError):
            return
        if os.fork() == 0:
            _child(make, pipe, handle, mother)
        os.close(handle)


if __name__ == "__main__":
    main()
