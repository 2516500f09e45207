"""Patches of verl 0.9.1 that training on any device needs; loaded in each process of a run.

Both concern SFT, whose trainer has no hook at these places:

* verl/utils/checkpoint/checkpoint_handler.py:178 restores the data loader's position. At the end of an epoch that
  position is "no rows left", so a run resumed there trains nothing for a whole epoch, and with one epoch left ends
  with exit status 0. Such a state is left out: the loader starts the next epoch.
* verl/trainer/sft_trainer.py:214 builds its ``DistributedSampler`` without a seed, and nothing seeds LoRA's random
  start, so ``trainer.seed`` moves nothing. The launcher's ``SEED`` is given to both.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from common.verl_source import expect_source


def skip_loader_state_at_epoch_end() -> None:
    """Make a run that is resumed at the end of an epoch train the next one."""
    from verl.utils.checkpoint.checkpoint_handler import CheckpointHandler, extract_step

    original = CheckpointHandler._load_dataloader_state
    expect_source(original, "self.train_dataloader.load_state_dict(dataloader_state_dict)", "resume at an epoch's end")

    def load_unless_epoch_end(self: CheckpointHandler, checkpoint_path: str) -> None:
        step = extract_step(checkpoint_path)
        if step % len(self.train_dataloader) == 0:
            print(f"Step {step} ends an epoch: the data loader starts the next one")
            return
        original(self, checkpoint_path)

    CheckpointHandler._load_dataloader_state = load_unless_epoch_end


def seed_sft(seed: int) -> None:
    """Give the seed to the order of the SFT rows and to torch's generator.

    Raises:
        RuntimeError: If verl's SFT trainer builds its sampler in another way by now.
    """
    import torch
    from torch.utils.data import DistributedSampler

    source = Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "sft_trainer.py"
    expected = "self.train_dataset, shuffle=True, num_replicas=dp_size, rank=dp_rank, drop_last=True"
    if expected not in source.read_text(encoding="utf-8"):
        raise RuntimeError(f"{source} does not build its sampler as in verl 0.9.1; renew common/verl_patches.py")
    original = DistributedSampler.__init__

    def init_with_seed(self: DistributedSampler, *args: object, **kwargs: object) -> None:
        original(self, *args, **{"seed": seed, **kwargs})

    DistributedSampler.__init__ = init_with_seed
    torch.manual_seed(seed)


if os.environ.get("ALGORITHM") == "sft":
    skip_loader_state_at_epoch_end()
    seed_sft(int(os.environ.get("SEED", "0")))
