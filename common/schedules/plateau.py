"""A learning rate that is halved when the validation score has stopped to rise."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from common.schedules.scores import read_scores

FACTOR = 0.5
PATIENCE = 2  # validations without a better score after which the next one that is no better halves the rate
SMALLEST = 0.01  # of the peak
SMALLEST_GAIN = 1e-4  # of the score that counts as better


class PlateauSchedule(LambdaLR):
    """torch's ``ReduceLROnPlateau`` behind a warm-up, with the scores that `read` returns.

    Args:
        optimizer: Its rates are set.
        num_warmup_steps: Steps in which the rate climbs to the peak.
        read: Step -> score, higher is better; the same in every process.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, num_warmup_steps: int, read: Callable[[], Mapping[int, float]]
    ):
        self.read, self.seen = read, -1
        # Its optimizer has the share of the peak as its rate.
        share = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        # A gain is absolute: torch's relative one takes the share of a negative best, such as a loss with its sign
        # turned, to the wrong side, so that a score that is no better, or a little worse, counts as better.
        gain = {"threshold": SMALLEST_GAIN, "threshold_mode": "abs"}
        self.judge = ReduceLROnPlateau(share, mode="max", factor=FACTOR, patience=PATIENCE, min_lr=SMALLEST, **gain)
        warmup = max(1, num_warmup_steps)
        super().__init__(optimizer, lambda step: min(1.0, step / warmup if num_warmup_steps else 1.0) * self.share)

    @property
    def share(self) -> float:
        """The rate as a share of the peak, the warm-up left out."""
        return self.judge.optimizer.param_groups[0]["lr"]

    def step(self, epoch: int | None = None) -> None:
        """Judge the scores that are new, then set the rate."""
        scores = self.read() if self.last_epoch >= 0 else {}  # the first call is torch's own, while it is made
        for at in sorted(step for step in scores if step > self.seen):
            self.judge.step(scores[at])
            self.seen = at
        super().step(epoch)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: the judge's counts and the share too."""
        own = ("read", "judge")
        state = {name: value for name, value in super().state_dict().items() if name not in own}
        return {**state, "share": self.share, "judge": self.judge.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        state = dict(state_dict)
        self.judge.load_state_dict(state.pop("judge"))
        self.judge.optimizer.param_groups[0]["lr"] = state.pop("share")
        super().load_state_dict(state)


def scores_everywhere() -> dict[int, float]:
    """The scores as the first process reads them: on a network disk another may see an older file."""
    import torch.distributed as dist

    shared = [{}]
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if not several or dist.get_rank() == 0:
        shared = [read_scores(Path(os.environ["RUN_DIR"]))]
    if several:
        dist.broadcast_object_list(shared, src=0, device=torch.device("cpu"))
    return shared[0]
