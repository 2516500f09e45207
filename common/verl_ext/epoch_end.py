"""SFT and DPO: a run that is resumed at the end of an epoch trains the next one.

Target: `CheckpointHandler._load_dataloader_state`, verl/utils/checkpoint/checkpoint_handler.py:170.

verl restores the data loader's position. At the end of an epoch that position is "no rows left", so a run resumed
there trains nothing for a whole epoch, and with one epoch left ends with exit status 0. Such a state is left out: the
loader starts the next epoch.

Upstream: https://github.com/verl-project/verl/issues/7401 (open), fix in https://github.com/verl-project/verl/pull/7402
(open); the RL trainer got it with https://github.com/verl-project/verl/pull/5725.

Until: verl has that fix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def replacement(original: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    """The original, but for a checkpoint at the end of an epoch."""

    def load_unless_epoch_end(self: Any, checkpoint_path: str) -> None:
        from verl.utils.checkpoint.checkpoint_handler import extract_step

        step = extract_step(checkpoint_path)
        if step % len(self.train_dataloader) == 0:
            print(f"Step {step} ends an epoch: the data loader starts the next one")
            return
        original(self, checkpoint_path)

    return load_unless_epoch_end
