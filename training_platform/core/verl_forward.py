"""A bare ``python -m verl.trainer.main_ppo`` reports to the platform by itself where JOB_UUID and PLATFORM_URL are set.

verl imports this module in each of its processes: setup_env.sh enters it in the group ``verl.plugins``. The process
that logs (an actor of Ray, or the first one of an SFT) sends the numbers; the one that was started tells when the
training begins and how it ends. A run that a platform has started has no PLATFORM_URL: its files are read.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from training_platform.core.sender import spool_folder, wait_for_others
from training_platform.core.wandb_callback import DualLogger

OTHERS_SECONDS = 10.0  # for processes that still send when the training has ended


def install() -> None:
    """Has verl report; does nothing without both variables, and never raises."""
    job, url = os.environ.get("JOB_UUID", ""), os.environ.get("PLATFORM_URL", "")
    if not job or not url:
        return
    try:
        from common.verl_ext import table, tracking, trainer_main

        table.replace(["report"])
    except Exception as error:  # verl would swallow it, and the training is worth more than its report
        warnings.warn(f"nothing is reported to {url}: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
        return
    tracking.loggers.append(lambda: Metrics(job, url))
    trainer_main.listeners.append(lambda: Training(job, url).end)


class Metrics:
    """A logger of verl's.

    Args:
        job: The id to report under.
        url: Of the platform.
    """

    made: list[Metrics] = []

    def __init__(self, job: str, url: str):
        self.logger = DualLogger(job, url, wandb_enabled=False)
        self.made.append(self)

    def log(self, data: dict[str, Any], step: int) -> None:
        """Sends the numbers of a step, under verl's names."""
        self.logger.log_metrics(step, data)


class Training:
    """The whole of a training, in the process that was started.

    Args:
        job: The id to report under.
        url: Of the platform.
    """

    def __init__(self, job: str, url: str):
        self.job, self.url = job, url
        self._begun: DualLogger | None = None
        if os.environ.get("RANK", "0") == "0":
            self._begun = DualLogger(job, url, wandb_enabled=False)
            self._begun.log_status("running")

    def end(self, error: BaseException | None) -> None:
        """Tells how it ended, behind everything else that was reported."""
        for metrics in Metrics.made:
            metrics.logger.flush()
        if self._begun is None:
            return
        self._begun.flush()
        if ray := sys.modules.get("ray"):
            ray.shutdown()
        wait_for_others(spool_folder(), self.job, OTHERS_SECONDS)
        if error is None or isinstance(error, SystemExit) and not error.code:
            self._tell("finished", "")
        elif isinstance(error, KeyboardInterrupt):
            self._tell("stopped", "interrupted")
        else:
            self._tell("failed", _said(error))

    def _tell(self, status: str, message: str) -> None:
        logger = DualLogger(self.job, self.url, wandb_enabled=False)  # begins with what others could not send
        logger.log_status(status, message)
        logger.flush()


def _said(error: BaseException) -> str:
    """The last line of an error: of one from another process that is the error there."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"[:1000]


install()
