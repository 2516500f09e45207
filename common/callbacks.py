"""Hooks that verl's RL trainers call (``trainer.checkpoint_callback_class``)."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from common.checkpoints.integrity import mark_complete

logger = logging.getLogger(__name__)


class ExportOnLastSave(CheckpointCallback):
    """Write the policy as a plain Hugging Face folder after the last step.

    It runs in the trainer's own process, which has verl loaded already, so the model is there a moment after the
    last checkpoint. A failure does not lose the run: the launcher tries again and shows the error.
    """

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs) -> None:
        """Mark the checkpoint complete; export when this was the last step."""
        if async_save:
            return
        mark_complete(Path(checkpoint_dir), attempt=int(os.environ.get("ATTEMPT", "1")))
        if global_step < trainer.total_training_steps:
            return
        from common.checkpoints.layout import checkpoint_at
        from common.checkpoints.merge import merge

        started = time.time()
        run_dir = Path(self.config.trainer.default_local_dir).parent
        try:
            merge(checkpoint_at(Path(checkpoint_dir)), run_dir / "model")
        except Exception:  # training is done and saved; the launcher exports again and reports
            logger.exception("the export of %s failed", checkpoint_dir)
        else:
            print(f"Exported {run_dir / 'model'} in {time.time() - started:.1f} s")
