"""RL: the kit's callback hears of each step with its figures, and of the step that a run starts from.

Target: `PPOTrainer.step`, verl/trainer/ppo/v1/trainer_base.py:533; called in `PPOTrainer.fit`,
verl/trainer/ppo/v1/trainer_base.py:412.

verl tells a callback of saved checkpoints, and its ``on_step_end`` gets no figures.

Upstream: no issue known.

Until: ``CheckpointCallback.on_step_end`` gets the batch and the metrics, before they are logged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
    """The original between ``on_start`` and ``on_step`` of `common.callbacks.RunCallback`."""

    def step_and_tell(self: Any, metrics: dict, timing_raw: dict) -> Any:
        self.checkpoint_callback.on_start(self, self.global_steps - 1)
        batch = original(self, metrics, timing_raw)
        self.checkpoint_callback.on_step(self, batch, metrics)
        return batch

    return step_and_tell
