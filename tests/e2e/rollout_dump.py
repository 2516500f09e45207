"""The kit's callback, which also writes down what was rolled out at each step and what the trainer made of it."""

from __future__ import annotations

from typing import Any

import torch
import transfer_queue as tq

from common.callbacks import RunCallback

IDS, FLOATS = ("prompts", "responses"), ("rollout_log_probs", "old_log_probs", "ref_log_prob")


class KeepRollouts(RunCallback):
    """Writes ``kept/<step>.pt``: a list of answers, each with the fields above as lists."""

    def on_step(self, trainer: Any, batch: Any, metrics: dict[str, Any]) -> None:
        """As the kit's, and keep the batch."""
        super().on_step(trainer, batch, metrics)
        fields = [*IDS, *FLOATS]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        columns = {name: [row.tolist() for row in data[name].unbind()] for name in fields}
        folder = self.run_dir / "kept"
        folder.mkdir(exist_ok=True)
        torch.save(
            [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
            folder / f"{trainer.global_steps}.pt",
        )
