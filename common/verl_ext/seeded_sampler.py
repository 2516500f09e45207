"""SFT: the seed moves the order of the rows and LoRA's random start.

Target: `DistributedSampler` as torch.utils.data offers it; made without a seed in `SFTTrainer._build_dataloader`,
verl/trainer/sft_trainer.py:224.

verl's SFT trainer builds its sampler without a seed, and nothing seeds torch's generator, so ``trainer.seed`` moves
nothing. A subclass takes the place of the name that verl's trainer imports (it runs as ``__main__``, so its own module
cannot be reached); a seed that a caller gives is kept, and torch's class itself stays as it is.

Upstream: no issue known.

Until: verl passes ``trainer.seed`` to the sampler and to the model's initialisation.
"""

from __future__ import annotations

from typing import Any

import torch


def replacement(original: type, seed: int) -> type:
    """A sampler whose seed is the run's where none is given; also seeds torch's generator."""

    class SeededSampler(original):
        """A distributed sampler with the seed of the run."""

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **{"seed": seed, **kwargs})

    torch.manual_seed(seed)
    return SeededSampler
