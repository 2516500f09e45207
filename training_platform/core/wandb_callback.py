"""One logger for two places: the platform and W&B.

    from training_platform.core.wandb_callback import init_logging

    logger = init_logging(job_uuid="my-job-001", wandb_project="llm-training")
    logger.log_metrics(step=100, metrics={"loss": 0.5, "reward": 0.8})
    logger.finish()

No call waits for a network, and none raises: what cannot be logged is a warning, once for each reason.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Mapping
from typing import Any

from training_platform.core.sender import Sender
from training_platform.core.wandb_side import WandbSide, open_run

URL = "http://localhost:8000"


class DualLogger:
    """Sends what a training logs to the platform and to W&B.

    Args:
        job_uuid: Any text that names the job; the platform shows a job under it.
        platform_url: Where the platform is. ``PLATFORM_TOKEN`` of the environment is sent along.
        platform_enabled: Whether to send there.
        wandb_project: Project of W&B.
        wandb_run_name: Name of the run there; the job's id when it is not given.
        wandb_entity: Team or user there.
        wandb_config: Settings to show there.
        wandb_tags: Tags there.
        wandb_enabled: Whether to send there.
    """

    def __init__(
        self,
        job_uuid: str,
        platform_url: str = URL,
        platform_enabled: bool = True,
        wandb_project: str | None = None,
        wandb_run_name: str | None = None,
        wandb_entity: str | None = None,
        wandb_config: dict[str, Any] | None = None,
        wandb_tags: list[str] | None = None,
        wandb_enabled: bool = True,
    ):
        self.job_uuid = str(job_uuid)
        self._said: set[str] = set()
        self._sender = self._wandb = None
        if platform_enabled:
            self._sender = Sender(self.job_uuid, platform_url, os.environ.get("PLATFORM_TOKEN", ""))
        if wandb_enabled:
            run = open_run(wandb_project, wandb_run_name or self.job_uuid, wandb_entity, wandb_config, wandb_tags)
            self._wandb = WandbSide(run) if run is not None else None

    def log_metrics(self, step: int, metrics: Mapping[str, Any], epoch: float | None = None) -> None:
        """Logs the numbers of a step.

        Args:
            step: From 0. Going back is allowed: a training that was taken up again logs its steps anew.
            metrics: Name to number; a tensor or array of one number is one too.
            epoch: Passes over the data.
        """
        at, values, passes = self._step(step), self._numbers(metrics), self._number("epoch", epoch)
        if at is None or values is None:
            return
        if self._sender:
            record = {"kind": "metrics", "step": at, "metrics": _sendable(values), "time": time.time()}
            self._sender.put({**record, "epoch": passes} if passes is not None else record)
        if self._wandb:
            self._wandb.metrics(at, values, passes)

    def log_gpu_usage(
        self,
        gpu_index: int,
        utilization: float | None = None,
        memory_used: float | None = None,
        memory_total: float | None = None,
        temperature: float | None = None,
    ) -> None:
        """Logs the use of a GPU: percent, GB, GB, degrees Celsius."""
        given = {
            "utilization": utilization,
            "memory_used": memory_used,
            "memory_total": memory_total,
            "temperature": temperature,
        }
        index = self._step(gpu_index)
        values = self._numbers({name: value for name, value in given.items() if value is not None})
        if index is None or values is None:
            return
        if self._sender:
            self._sender.put({"kind": "gpu", "gpu_index": index, **_sendable(values), "time": time.time()})
        if self._wandb:
            self._wandb.gpu(index, values)

    def log_checkpoint(self, step: int, checkpoint_path: Any, eval_results: Mapping[str, Any] | None = None) -> None:
        """Logs where a checkpoint is, and how it scores: name to number."""
        at, values = self._step(step), self._numbers(eval_results or {})
        if at is None or values is None:
            return
        path = str(checkpoint_path)
        if self._sender:
            results = _sendable(values) if values else None
            self._sender.put({"kind": "checkpoint", "step": at, "path": path, "eval_results": results})
        if self._wandb:
            self._wandb.checkpoint(at, path, values)

    def log_status(self, status: str, message: str = "") -> None:
        """Logs what the job is doing; running, finished, failed and stopped are its state. An alert in W&B."""
        status, message = _line(status)[:100], str(message)[:10_000]
        if self._sender:
            self._sender.put({"kind": "status", "status": status, "message": _lines(message)})
        if self._wandb:
            self._wandb.status(self.job_uuid, status, message)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Logs settings, to W&B only."""
        if self._wandb and self._is_mapping("config", config):
            self._wandb.config(config)

    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Logs what the run came to, to W&B only."""
        if self._wandb and self._is_mapping("summary", summary):
            self._wandb.summary(summary)

    def flush(self) -> None:
        """Ends the sending without a word about the training; waits as `finish` does."""
        for side in filter(None, (self._sender, self._wandb)):
            side.finish()
        self._sender = self._wandb = None

    def finish(self) -> None:
        """Ends: waits up to ten seconds for what is on its way to the platform, then for W&B."""
        if self._sender:
            self._sender.put({"kind": "finish"})
        self.flush()

    def __enter__(self) -> DualLogger:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if error is not None:
            self.log_status("failed", f"{type(error).__name__}: {error}")
        self.finish()

    # ---- values ------------------------------------------------------------------------------------------

    def _step(self, step: Any) -> int | None:
        try:
            whole = int(step)
            if whole == step and 0 <= whole < 2**62:
                return whole
        except (TypeError, ValueError, OverflowError):
            pass
        self._warn(f"a step is a whole number from 0, not {step!r:.50}; the call is left out")
        return None

    def _numbers(self, metrics: Any) -> dict[str, float] | None:
        if not self._is_mapping("metrics", metrics):
            return None
        found = {}
        for name, value in metrics.items():
            number = self._number(name, value) if type(value) is not float else value
            if number is not None:
                found[name if type(name) is str else str(name)] = number
        return found

    def _number(self, name: Any, value: Any) -> float | None:
        """A number; None, with a warning, for what is none."""
        if value is None:
            return None
        try:
            return float(value)
        except Exception:  # of any class: a tensor of many numbers raises one of its own library
            self._warn(f"{name!r:.100} is a {type(value).__name__} and not a number; it is left out")
            return None

    def _is_mapping(self, what: str, value: Any) -> bool:
        if isinstance(value, Mapping):
            return True
        self._warn(f"{what} is a {type(value).__name__}; expected {{name: value}}, the call is left out")
        return False

    def _warn(self, text: str) -> None:
        if text not in self._said and len(self._said) < 100:
            self._said.add(text)
            warnings.warn(f"job {self.job_uuid}: {text}", RuntimeWarning, stacklevel=4)


def init_logging(job_uuid: str, wandb_project: str | None = None, **options: Any) -> DualLogger:
    """A logger in one line.

    Args:
        job_uuid: As of `DualLogger`.
        wandb_project: As of `DualLogger`.
        options: Its other arguments; `platform_url` is ``PLATFORM_URL`` of the environment when it is not given.
    """
    options.setdefault("platform_url", os.environ.get("PLATFORM_URL") or URL)
    return DualLogger(job_uuid, wandb_project=wandb_project, **options)


def _sendable(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN and no infinity: they are null."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _line(text: Any) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def _lines(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter in "\n\t" else " " for letter in text)
