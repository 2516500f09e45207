"""A callback that keeps the batch of each step, for the test of the advantages."""

from __future__ import annotations

from typing import Any

import transfer_queue as tq
from safetensors.torch import save_file

from common.callbacks import RunCallback

FIELDS = ["values", "rm_scores", "token_level_rewards", "response_mask", "advantages", "returns"]


class DumpBatch(RunCallback):
    """Writes ``batches/<step>.safetensors``: the fields of a step, padded with zeros."""

    def on_step(self, trainer: Any, batch: Any, metrics: dict[str, Any]) -> None:
        super().on_step(trainer, batch, metrics)
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=FIELDS)
        folder = self.run_dir / "batches"
        folder.mkdir(exist_ok=True)
        tensors = {name: data[name].to_padded_tensor(0.0).contiguous().float() for name in FIELDS}
        save_file(tensors, folder / f"{trainer.global_steps}.safetensors")
