"""``TRAINER_MODE=separate``: the weights that verl puts aside are a copy, also when they are in host memory.

Target: `fsdp2_sharded_save_to_cpu`, verl/utils/fsdp_utils.py:1146; called in `DetachActorWorker.save_model_to_cpu`.

With several updates between two weight syncs, verl puts the weights of the first aside and asks them for the old
log-probabilities. ``tensor.cpu()`` copies from a GPU. In host memory (on the CPU, ``OFFLOAD=true`` and ``full``) it is
the weight itself, so that the updates change what was put aside: every ratio would be 1, and nothing clipped.

Upstream: no issue known.

Until: ``fsdp2_sharded_save_to_cpu`` clones what is in host memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def replacement(original: Callable[..., tuple[dict, Any]]) -> Callable[..., tuple[dict, Any]]:
    """The original, whose tensors share no memory with the model."""

    def fsdp2_sharded_save_to_cpu(model: Any) -> tuple[dict, Any]:
        live = {_local(parameter).data_ptr() for parameter in model.parameters()}
        saved, spec = original(model)
        return {
            name: (tensor.clone() if tensor.data_ptr() in live else tensor, own)
            for name, (tensor, own) in saved.items()
        }, spec

    return fsdp2_sharded_save_to_cpu


def _local(parameter: Any) -> Any:
    """This process's part of a parameter."""
    return getattr(parameter, "_local_tensor", parameter)
