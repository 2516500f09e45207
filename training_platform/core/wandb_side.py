"""The W&B half of the logger: names, steps that are never dropped, calls from a separate thread.

`log` is never given ``step=``: W&B ignores whatever comes with a smaller step than before, as each resumed training and
each call between two steps would. The step is a value next to the others, and ``define_metric`` makes it the axis.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from common.wandb_login import wandb_login

DRAIN_SECONDS = 60.0  # for what waits when the run finishes
LEVELS = {"failed": "ERROR", "error": "ERROR", "died": "ERROR", "stopped": "WARN", "warning": "WARN"}
MAX_TITLE = 63  # characters that W&B takes


def open_run(project: str | None, name: str, entity: str | None, config: Mapping | None, tags: list[str] | None) -> Any:
    """A run of W&B, or None where it is not installed, nobody is logged in, or it does not come up.

    It never asks for a key. A run that the program has begun itself is used: two writers on one run lose rows.
    """
    mode = os.environ.get("WANDB_MODE", "online")
    try:
        import wandb
    except ImportError:
        return _without("the package wandb is not installed (pip install wandb)")
    if wandb.run is not None:
        return wandb.run
    if mode not in ("offline", "disabled", "dryrun") and not wandb_login():
        return _without("nobody is logged in; run wandb login, export WANDB_API_KEY, or set WANDB_MODE=offline")
    try:
        settings = wandb.Settings(init_timeout=30)
        run = wandb.init(
            project=project, name=name, entity=entity, config=dict(config or {}), tags=tags, settings=settings
        )
    except Exception as error:
        return _without(f"{type(error).__name__}: {error}")
    for prefix in ("train", "eval"):
        run.define_metric(f"{prefix}/step")
        run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")
    return run


def _without(why: str) -> None:
    warnings.warn(f"W&B is left out: {why}", RuntimeWarning, stacklevel=4)


class WandbSide:
    """What is sent to a run of W&B.

    Args:
        run: Of `open_run`.
    """

    def __init__(self, run: Any):
        self.run = run
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._gpus: dict[int, float] = {}
        self._finished = threading.Event()
        self._said = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="wandb sender")
        self._thread.start()
        atexit.register(self.finish)

    def metrics(self, step: int, values: Mapping[str, float], epoch: float | None) -> None:
        """Numbers of a step."""
        row = {name if "/" in name else f"train/{name}": value for name, value in values.items()}
        row["train/step"] = step
        if epoch is not None:
            row["train/epoch"] = epoch
        self._call(lambda: self.run.log(row))

    def gpu(self, index: int, values: Mapping[str, float]) -> None:
        """Use of a GPU, and the mean use of all that were reported."""
        row = {f"system/gpu.{index}.{name}": value for name, value in values.items()}
        if "utilization" in values:
            self._gpus[index] = values["utilization"]
            row["system/gpu_utilization"] = sum(self._gpus.values()) / len(self._gpus)
        self._call(lambda: self.run.log(row))

    def checkpoint(self, step: int, path: str, results: Mapping[str, float]) -> None:
        """Scores of a checkpoint; its place goes to the summary, nothing is uploaded."""
        row = {"eval/step": step, **{f"eval/{name}": value for name, value in results.items()}}
        self._call(lambda: self.run.log(row))
        self._call(lambda: self.run.summary.update({"checkpoint/step": step, "checkpoint/path": path}))

    def status(self, job: str, status: str, message: str) -> None:
        """An alert."""
        level = LEVELS.get(status.lower(), "INFO")
        self._call(lambda: self.run.alert(title=f"{job}: {status}"[:MAX_TITLE], text=message or status, level=level))

    def config(self, config: Mapping[str, Any]) -> None:
        """Settings of the run."""
        kept = dict(config)
        self._call(lambda: self.run.config.update(kept, allow_val_change=True))

    def summary(self, summary: Mapping[str, Any]) -> None:
        """What the run came to."""
        kept = dict(summary)
        self._call(lambda: self.run.summary.update(kept))

    def finish(self) -> None:
        """Sends what waits, then ends the run."""
        if self._finished.is_set():
            return
        self._finished.set()
        self._calls.put(None)
        self._thread.join(DRAIN_SECONDS)
        if self._thread.is_alive():
            self._warn(f"it took longer than {DRAIN_SECONDS:.0f} s to send what was logged")
            return
        try:
            self.run.finish()
        except Exception as error:
            self._warn(f"{type(error).__name__}: {error}")

    def _call(self, what: Callable[[], None]) -> None:
        if not self._finished.is_set():
            self._calls.put(what)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # the training continues without it
                self._warn(f"{type(error).__name__}: {error}")
                time.sleep(0.01)

    def _warn(self, text: str) -> None:
        if not self._said:
            self._said = True
            warnings.warn(f"W&B: {text}", RuntimeWarning, stacklevel=2)
