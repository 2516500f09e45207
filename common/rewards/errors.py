"""Answers whose reward raised: each counts 0 and 1 in ``reward_error``, and is written down with its message.

verl turns an exception of a reward into a lost answer and continues silently
(`AgentLoopWorkerTQ._run_prompt`), so that a run with a broken reward trains on what is left. Here a run continues
only while it is a rare accident: ``common.callbacks`` ends it above `MAX_SHARE` of a step's answers.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

FILE = "reward_errors.jsonl"  # in the run directory: the first errors of each process
KEY = "reward_error"
MAX_SHARE = 0.01  # of the answers of a step
MOST = 100  # errors that a process writes down
IN_LOG = 3  # of them with their traceback in the log
LONGEST = 4000  # characters of a text in the file

logger = logging.getLogger(__name__)


class RewardError(RuntimeError):
    """The reward raised too often, or in a way that ends a run."""


class RewardErrors:
    """Calls a reward function for one process of a run; counts what raises.

    Args:
        folder: The run directory; None writes nothing down.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.written = 0
        self.keys: dict[str, Any] = {}  # what a good answer's result has next to the score, as zeros
        self.lock = threading.Lock()  # verl calls plain functions from several threads

    def call(self, reward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The result of a plain function, as a dictionary with ``reward_error``."""
        try:
            return self._good(reward(*args, **kwargs))
        except Exception as error:
            return self._bad(error, kwargs)

    async def call_async(self, reward: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The same of an ``async`` function."""
        try:
            return self._good(await reward(*args, **kwargs))
        except Exception as error:
            return self._bad(error, kwargs)

    def _good(self, result: Any) -> dict[str, Any]:
        checked = dict(result) if isinstance(result, Mapping) else {"score": result, "acc": result}
        if "score" not in checked:
            raise ValueError(f"the reward returned {_short(result)}, which has no 'score'")
        score = checked["score"]
        if not isinstance(score, Real) and not hasattr(score, "__float__") or not math.isfinite(score):
            raise ValueError(f"the reward returned {_short(score)}; it must be a finite number")
        self.keys = {key: 0.0 for key, value in checked.items() if isinstance(value, Real)}
        return {**checked, KEY: 0.0}

    def _bad(self, error: Exception, row: Mapping[str, Any]) -> dict[str, Any]:
        self._write(error, row)
        return {**(self.keys or {"acc": 0.0}), "score": 0.0, KEY: 1.0}

    def _write(self, error: Exception, row: Mapping[str, Any]) -> None:
        with self.lock:
            self.written += 1
            if self.written <= IN_LOG:
                logger.warning("The reward raised; the answer counts 0", exc_info=error)
            if self.folder is None or self.written > MOST:
                return
            record = {
                "time": time.time(),
                "error": f"{type(error).__name__}: {error}"[:LONGEST],
                "place": _place(error),
                "ends_run": bool(getattr(error, "ends_run", False)),
                "data_source": _text(row.get("data_source")),
                "ground_truth": _text(row.get("ground_truth")),
                "answer": _text(row.get("solution_str")),
                "traceback": "".join(traceback.format_exception(error))[-LONGEST:],
            }
            line = json.dumps(record, ensure_ascii=False) + "\n"
            with (self.folder / FILE).open("a", encoding="utf-8", errors="replace") as file:
                file.write(line)


def size(folder: Path) -> int:
    """Bytes of the file, 0 without one."""
    return (folder / FILE).stat().st_size if (folder / FILE).is_file() else 0


def read_errors(folder: Path, after: int = 0) -> list[dict[str, Any]]:
    """What the processes of a run have written after so many bytes; a torn line is skipped."""
    found = []
    if (folder / FILE).is_file():
        with (folder / FILE).open("rb") as file:
            file.seek(after)
            for line in file:
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue
    return found


def problem(step: int, raised: float, answers: float, errors: list[dict[str, Any]]) -> str | None:
    """Why the run must end, or None while it may continue.

    Args:
        step: Of the training.
        raised: Answers of the step, or of its validation, whose reward raised.
        answers: All of them.
        errors: Of `read_errors`, oldest first.
    """
    fatal = next((error for error in errors if error.get("ends_run")), None)
    if not fatal and raised <= MAX_SHARE * answers:
        return None
    shown = fatal or next(iter(errors), {"error": "see train.log", "place": ""})
    place = f" at {shown['place']}" if shown["place"] else ""
    return (
        f"the reward raised on {raised:.0f} of {answers:.0f} answers at step {step}: {shown['error'][:300]}{place}; "
        f"{FILE} has the rows"
    )


def this_run() -> RewardErrors:
    """The errors of the run that this process belongs to (``RUN_DIR``)."""
    run_dir = os.environ.get("RUN_DIR")
    return RewardErrors(Path(run_dir) if run_dir else None)


def _place(error: Exception) -> str:
    """File, line and function of the last frame outside of libraries."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and frame.filename != __file__]
    last = (own or frames)[-1:]
    return "".join(f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in last)


def _text(value: Any) -> str:
    return str(value)[:LONGEST]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
