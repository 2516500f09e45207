"""verl's FSDP2 engine, registered for the device ``cpu``.

Forward, backward, optimiser, checkpoints and LoRA are verl's own. Only the wrapping differs: parameters stay in
float32 (bfloat16 autocast is slower than float32 on most CPUs) and nothing is offloaded, because
``CPUOffloadPolicy(pin_memory=True)``, which verl gives to the reference model, needs an accelerator.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from verl.utils.fsdp_utils import (
    apply_fsdp2,
    fsdp2_load_full_state_dict,
    merged_lora_context,
    normalize_peft_param_name,
)
from verl.utils.model import convert_weight_keys
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from common.verl_ext import private


def training_threads() -> int:
    """Torch threads for one training process: the host's cores divided by the processes on it, at least 1."""
    cores = len(os.sched_getaffinity(0))
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("RAY_LOCAL_WORLD_SIZE") or 1)
    return max(1, cores // processes)


class _OnCpu:
    """Wrap with FSDP2 in float32; mixed in before verl's engine classes."""

    def initialize(self) -> None:
        """Build model and optimiser, then keep what is loaded by now out of garbage collection.

        verl collects garbage several times a step; going through all imported modules takes 0.3 s each time.
        """
        private.check("common/cpu_backend/engine.py")
        super().initialize()
        gc.freeze()

    def forward_backward_batch(self, *args: Any, **kwargs: Any) -> list:
        """Compute with all the cores this process may use.

        Ray and torchrun start processes with one thread, and TransferQueue goes back to that after each transfer.
        """
        torch.set_num_threads(training_threads())
        return super().forward_backward_batch(*args, **kwargs)

    def _merged_lora_per_tensor_param(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Base and adapter as whole weights, in float32 as the rollout server holds them.

        verl's own rounds them to bfloat16, which is what its GPU engines generate with but moves float32 weights by up
        to a thousandth. They are copied while the adapter is merged in: afterwards the storage holds the base again.
        """
        with merged_lora_context(self.module, backup_adapters=True):
            weights = convert_weight_keys(normalize_peft_param_name(self.module.state_dict()), self.module)
            for name, weight in weights.items():
                yield name, (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().clone()

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        if self.engine_config.strategy != "fsdp2":
            raise ValueError(
                f"engine strategy {self.engine_config.strategy!r} needs a GPU; on the CPU use 'fsdp2' "
                "(remove your key=value argument that sets it)"
            )
        self._autocast_dtype = torch.float32
        self.scaler = None
        policy = {
            "mesh": self.device_mesh,
            "mp_policy": MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32),
            "offload_policy": None,
            "reshard_after_forward": self.engine_config.reshard_after_forward,
        }
        full_state = module.state_dict()
        apply_fsdp2(module, policy, self.engine_config)
        fsdp2_load_full_state_dict(module, full_state, self.device_mesh, None)
        return module


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")
class CpuEngineWithLMHead(_OnCpu, FSDPEngineWithLMHead):
    """Policy, reference model and SFT model on the CPU."""


@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device="cpu")
class CpuEngineWithValueHead(_OnCpu, FSDPEngineWithValueHead):
    """Critic on the CPU."""
