"""Log-probabilities of the answers under the reference model, in one of four ways.

=============  ==============================================================================================
REFERENCE      where they come from
=============  ==============================================================================================
``model``      a frozen copy on the same devices, asked for every batch
``adapter``    the trained model with its LoRA adapter switched off
``precompute`` asked once for all pairs before the first step, and kept in the run directory
``none``       zeros: for losses without a reference, or to train without one
=============  ==============================================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from dpo.dataset import PreferenceDataset
from dpo.pairs import answer_logps

MODES = ("model", "adapter", "precompute", "none")


def infer_logps(worker: Any, batch: TensorDict, adapter: bool = True) -> torch.Tensor:
    """Summed log-probability of each answer of a batch, without gradients.

    Args:
        worker: A ``TrainingWorker``.
        batch: As for training, of the shape (2 x pairs,).
        adapter: False switches the LoRA adapter off.

    Returns:
        Shape (2 x pairs,), float64, on the CPU.
    """
    data = batch.copy()
    tu.assign_non_tensor(data, compute_loss=False, no_lora_adapter=not adapter)
    output = worker.infer_batch(data)
    return answer_logps(tu.get(output, "log_probs").cpu(), batch["loss_mask"].cpu())


class ReferenceTable:
    """Reference log-probabilities of every pair of a dataset, kept in a file.

    Args:
        dataset: The pairs.
        file: Where they are kept; written by rank 0.
        model: Path of the reference model; another model or other pairs make the file useless.
    """

    def __init__(self, dataset: PreferenceDataset, file: Path, model: str):
        self.dataset, self.file = dataset, file
        self.fingerprint = _fingerprint(dataset, model)
        self.logps = torch.full((len(dataset), 2), torch.nan, dtype=torch.float64)

    def load(self) -> bool:
        """Read the file; returns False when there is none that fits."""
        if not self.file.is_file():
            return False
        saved = torch.load(self.file, weights_only=True)
        if saved["fingerprint"] != self.fingerprint:
            return False
        self.logps = saved["logps"]
        return True

    def fill(self, worker: Any, batches: Iterable[TensorDict], group: Any) -> None:
        """Ask the model for all pairs, on all ranks together.

        Args:
            worker: The reference, or the model before its first step.
            batches: This rank's share of the pairs.
            group: Process group of the ranks that hold other shares, or None.
        """
        mine: list[tuple[int, list[float]]] = []
        for batch in batches:
            logps = infer_logps(worker, batch).view(-1, 2)
            mine += zip(batch["pair"][0::2].tolist(), logps.tolist(), strict=True)
        everyone = [mine]
        if group is not None and torch.distributed.get_world_size(group) > 1:
            everyone = [None] * torch.distributed.get_world_size(group)
            torch.distributed.all_gather_object(everyone, mine, group=group)
        for pair, logps in (entry for share in everyone for entry in share):
            self.logps[pair] = torch.tensor(logps, dtype=torch.float64)
        if self.logps.isnan().any():
            raise RuntimeError(f"{int(self.logps.isnan().any(dim=1).sum())} pairs have no reference log-probabilities")
        if torch.distributed.get_rank() == 0:
            partial = self.file.with_suffix(".partial")
            torch.save({"fingerprint": self.fingerprint, "logps": self.logps}, partial)
            partial.replace(self.file)

    def lookup(self, batch: TensorDict) -> torch.Tensor:
        """The log-probabilities of a batch, shape (2 x pairs,)."""
        return self.logps[batch["pair"][0::2].cpu()].view(-1)


def _fingerprint(dataset: PreferenceDataset, model: str) -> str:
    digest = hashlib.sha256(model.encode())
    for pair in dataset.pairs:
        for side in pair:
            for numbers in (side.ids, side.mask):
                digest.update(torch.tensor(numbers, dtype=torch.int32).numpy().tobytes() + b"|")
    return digest.hexdigest()
