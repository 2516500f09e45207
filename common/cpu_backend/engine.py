"""verl's FSDP engine, registered for the device ``cpu``.

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
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FullStateDictConfig,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    ShardedStateDictConfig,
    StateDictType,
)
from torch.distributed.tensor import DTensor
from verl.utils.fsdp_utils import (
    apply_fsdp2,
    fsdp2_load_full_state_dict,
    get_fsdp_wrap_policy,
    merged_lora_context,
    normalize_peft_param_name,
)
from verl.utils.model import convert_weight_keys
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead
from verl.workers.engine.fsdp.utils import get_sharding_strategy

from common.verl_ext import private


def training_threads() -> int:
    """Torch threads for one training process: the host's cores divided by the processes on it, at least 1."""
    cores = len(os.sched_getaffinity(0))
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("RAY_LOCAL_WORLD_SIZE") or 1)
    return max(1, cores // processes)


def share_weights(module: torch.nn.Module, mesh: DeviceMesh) -> None:
    """Give each process the weights of the first of its group; verl loads a model with an untied head there only."""
    group = mesh.get_group(mesh.ndim - 1)
    first = torch.distributed.get_global_rank(group, 0)
    if any(parameter.is_meta for parameter in module.parameters()):
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                empty = torch.empty_like(parameter, device="cpu")
                setattr(part, name, torch.nn.Parameter(empty, parameter.requires_grad))
    for tensor in (*module.parameters(), *module.buffers()):
        torch.distributed.broadcast(tensor.data, first, group)


class _OnCpu:
    """Wrap with FSDP2, or FSDP1, in float32; mixed in before verl's engine classes."""

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
        self._autocast_dtype = torch.float32
        self.scaler = None
        if self.engine_config.strategy == "fsdp":
            return self._build_fsdp1_module(module)
        if self.engine_config.strategy != "fsdp2":
            raise ValueError(f"engine strategy {self.engine_config.strategy!r} needs a GPU; set TRAIN_ENGINE=fsdp2")
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

    def _build_fsdp1_module(self, module: torch.nn.Module) -> torch.nn.Module:
        """The same with FSDP1, whose own way to hand out the weights of the first process needs a GPU."""
        share_weights(module, self.device_mesh)
        wrapped = FullyShardedDataParallel(
            module,
            auto_wrap_policy=get_fsdp_wrap_policy(
                module, self.engine_config.wrap_policy, is_lora=self.model_config.lora_rank > 0
            ),
            device_id=torch.device("cpu"),
            sharding_strategy=get_sharding_strategy(self.device_mesh, self.engine_config.reshard_after_forward),
            device_mesh=self.device_mesh,
            use_orig_params=self.engine_config.use_orig_params,
        )
        whole = torch.distributed.get_world_size() == 1
        kinds = (
            (StateDictType.FULL_STATE_DICT, FullStateDictConfig())
            if whole
            else (StateDictType.SHARDED_STATE_DICT, ShardedStateDictConfig())
        )
        FullyShardedDataParallel.set_state_dict_type(wrapped, *kinds)
        return wrapped


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")
class CpuEngineWithLMHead(_OnCpu, FSDPEngineWithLMHead):
    """Policy, reference model and SFT model on the CPU."""


@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device="cpu")
class CpuEngineWithValueHead(_OnCpu, FSDPEngineWithValueHead):
    """Critic on the CPU."""
