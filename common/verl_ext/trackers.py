"""verl's logger gets the kit's trackers: no re-trained step is lost, and the names that users know are there.

Target: `Tracking.__init__`, verl/utils/tracking.py:62.

W&B and SwanLab drop steps that come a second time, MLflow fails on a resume and is left out, trackio and ClearML begin
another run or move the steps (`common.trackers.backends`). TensorBoard would draw both curves.

Upstream: no issue known.

Until: verl's ``Tracking`` takes a resumed step, and keeps the ids of its trackers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replacement(original: Callable[..., None]) -> Callable[..., None]:
    """The original for what is not the kit's, then the kit's trackers."""

    def open_all(
        self: Any, project_name: str, experiment_name: str, default_backend: Any = "console", config: Any = None
    ) -> None:
        from common.trackers.backends import BACKENDS
        from common.trackers.place import resumed_step
        from common.trackers.tracker import attach

        names = [default_backend] if isinstance(default_backend, str) else list(default_backend)
        ours = [name for name in names if name in BACKENDS] if os.environ.get("RUN_DIR") else []
        original(self, project_name, experiment_name, [name for name in names if name not in ours], config)
        if "tensorboard" in self.logger and config:
            _drop_later(self.logger["tensorboard"].writer, resumed_step(config.get("trainer", {})))
        if os.environ.get("LR_SCHEDULER") == "plateau" and os.environ.get("RUN_DIR") and config:
            self.logger["plateau"] = _scores(config["trainer"])
        if ours:
            self.logger.update(attach(ours, project_name, experiment_name, config, Path(os.environ["RUN_DIR"])))

    return open_all


def _scores(trainer: dict[str, Any]) -> Any:
    """Keeps the validation scores for the learning rate; here, because all trainers log them before their next step."""
    from common.schedules.scores import Scores
    from common.trackers.place import resumed_step

    return Scores(Path(os.environ["RUN_DIR"]), resumed_step(trainer), trainer.get("test_freq") or 0)


def _drop_later(writer: Any, resumed: int) -> None:
    """Tell TensorBoard that steps after the checkpoint are trained again: it drops those of earlier attempts."""
    if not resumed:
        return
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    start = SessionLog(status=SessionLog.START)
    writer._get_file_writer().add_event(Event(session_log=start), step=resumed + 1)
