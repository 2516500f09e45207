"""The learning rate follows ``LR_SCHEDULER`` where verl has no such schedule: linear, wsd, plateau.

Target: `FSDPEngine._build_lr_scheduler`, verl/workers/engine/fsdp/transformer_impl.py:503.

verl's engine knows ``constant`` and ``cosine``, and its config refuses every other word. The kit gives it ``constant``
and makes the schedule here, with transformers' and torch's own. Whoever sets verl's key to ``cosine`` gets cosine.

Upstream: no issue known.

Until: ``lr_scheduler_type`` of ``FSDPOptimizerConfig`` takes these words.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

DECAY_SHARE = 0.2  # of the steps of wsd: its last part, in which the rate falls to 0


def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
    """The original for what verl knows, else the schedule of ``LR_SCHEDULER``."""

    def build(self: Any, optimizer: Any) -> Any:
        config, wanted = self.optimizer_config, os.environ.get("LR_SCHEDULER", "constant")
        if config.lr_scheduler_type != "constant" or wanted not in SCHEDULES:
            return original(self, optimizer)
        total, warmup = config.total_training_steps, config.lr_warmup_steps
        if warmup <= 0:
            warmup = int(config.lr_warmup_steps_ratio * total)
        if self.rank == 0:
            print(f"Total steps: {total}, num_warmup_steps: {warmup}")  # the launcher reads this line of verl's
        return SCHEDULES[wanted](optimizer, warmup, total)

    return build


def _linear(optimizer: Any, warmup: int, total: int) -> Any:
    from transformers import get_linear_schedule_with_warmup

    return get_linear_schedule_with_warmup(optimizer, warmup, total)


def _wsd(optimizer: Any, warmup: int, total: int) -> Any:
    from transformers import get_wsd_schedule

    decay = max(1, int(DECAY_SHARE * total))
    stable = max(0, total - warmup - decay)
    return get_wsd_schedule(
        optimizer, warmup, decay, num_stable_steps=stable, warmup_type="linear", decay_type="linear"
    )


def _plateau(optimizer: Any, warmup: int, total: int) -> Any:
    from common.schedules.plateau import PlateauSchedule, scores_everywhere

    return PlateauSchedule(optimizer, warmup, scores_everywhere)


SCHEDULES = {"linear": _linear, "wsd": _wsd, "plateau": _plateau}
