"""SFT and DPO: a checkpoint gets the marker that says it is complete, and only then are old ones removed.

Target: `CheckpointHandler.save_checkpoint`, verl/utils/checkpoint/checkpoint_handler.py:90.

verl writes a checkpoint in its final place, where a torn one looks like a complete one. It removes old checkpoints when
the shards are written, before the rest is there, and forgets after a resume which ones an earlier attempt has written.
The original ends with a barrier; after it the first rank writes the marker of ``common.checkpoints.integrity`` and
prunes. (RL has a hook for it: ``common/callbacks.py``.)

Upstream: no issue known.

Until: verl calls ``trainer.checkpoint_callback_class`` from its SFT trainer too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.checkpoints.integrity import mark_complete
from common.checkpoints.prune import remove, to_remove


def replacement(original: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
    """The original without its pruning, then the marker, then the kit's pruning."""

    def save_and_mark(self: Any, step: int) -> None:
        keep, self.max_ckpt_to_keep = self.max_ckpt_to_keep, None
        try:
            original(self, step)
        finally:
            self.max_ckpt_to_keep = keep
        if self.rank == 0:
            folder = Path(self.default_local_dir)
            mark_complete(folder / f"global_step_{step}", attempt=int(os.environ.get("ATTEMPT", "1")))
            for checkpoint, _ in to_remove(folder, keep) if keep else ():
                remove(checkpoint)

    return save_and_mark
