"""RL: the kit's callback hears of each validation with its scores, for early stopping and the best checkpoint.

Target: `PPOTrainer._validate`, verl/trainer/ppo/v1/trainer_base.py:1031; called in `PPOTrainer.fit`,
verl/trainer/ppo/v1/trainer_base.py:412.

verl's own ``on_validate_end`` of a callback gets no figures.

Upstream: no issue known.

Until: ``CheckpointCallback.on_validate_end`` gets the metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def replacement(original: Callable[[Any], dict[str, float]]) -> Callable[[Any], dict[str, float]]:
    """The original between ``on_start`` and ``on_validate`` of `common.callbacks.RunCallback`."""

    def validate_and_tell(self: Any) -> dict[str, float]:
        self.checkpoint_callback.on_start(self, self.global_steps)
        metrics = original(self)
        answers = len(self.val_dataset) * self.config.actor_rollout_ref.rollout.val_kwargs.n
        self.checkpoint_callback.on_validate(self, metrics, answers)
        return metrics

    return validate_and_tell
