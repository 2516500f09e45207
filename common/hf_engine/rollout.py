"""Register ``rollout.name=hf`` with verl: the replica that starts servers, the adapter that feeds them weights.

The adapter lives in each training process and the server in a separate process; weights travel between them
through Ray's object store, in buckets of ``update_weights_bucket_megabytes``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from verl.plugin.platform import get_platform
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry
from verl.workers.rollout.utils import ensure_async_iterator

from common.verl_ext import private

ENGINE = "hf"


def server_name(replica_rank: int, kind: str = "", suffix: str = "") -> str:
    """Name of a server's Ray actor, in the pattern of verl's own servers."""
    return f"{ENGINE}_server_{kind}{replica_rank}_0{suffix}"


class HFReplica(RolloutReplica):
    """One rollout server on one device; as many replicas as training processes."""

    async def launch_servers(self) -> None:
        """Start the server next to its training process.

        Raises:
            ValueError: If the configuration asks for tensor parallelism.
        """
        if self.world_size != 1:
            raise ValueError(
                f"ROLLOUT_ENGINE=hf has no tensor parallelism, but a replica spans {self.world_size} devices; "
                "set TENSOR_PARALLEL_SIZE=1"
            )
        from common.hf_engine.server import HFServer

        node_id, accelerators = await self.workers[0].__ray_call__.remote(
            lambda worker: (
                ray.get_runtime_context().get_node_id(),
                ray.get_runtime_context().get_accelerator_ids().get("GPU", []),
            )
        )
        platform = get_platform()
        env_vars = {name: "1" for name in platform.ray_noset_envvars()}
        if platform.device_name != "cpu":
            env_vars[platform.visible_devices_envvar()] = ",".join(accelerators)
        scheduling = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
        if self.is_reward_model:
            from common.hf_engine.reward_model import launch

            server, self._server_address = await launch(self, scheduling, env_vars, platform.device_name)
            self.servers, self._server_handle = [server], server
            return
        kind = "teacher_" if self.is_teacher_model else ""
        server = (
            ray.remote(HFServer)
            .options(
                name=server_name(self.replica_rank, kind, self.name_suffix),
                num_cpus=0,
                max_concurrency=self.max_concurrency,
                runtime_env={"env_vars": env_vars},
                scheduling_strategy=scheduling,
            )
            .remote(
                config=self.config,
                model_config=self.model_config,
                replica_rank=self.replica_rank,
                device=platform.device_name,
                num_threads=max(1, len(os.sched_getaffinity(0)) // self.gpus_per_node),
            )
        )
        await server.set_global_steps.remote(None)  # waits for the model, so that a failure shows here
        self.servers = [server]
        self._server_handle = server
        self._server_address = f"ray://{server_name(self.replica_rank, kind, self.name_suffix)}"


class ServerAdapter(BaseRollout):
    """The training process's side of a server: hands over memory and weights."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1):
        super().__init__(config, model_config, device_mesh)
        self.replica_rank = int(os.environ["RANK"]) if replica_rank == -1 else replica_rank
        self._server: ray.actor.ActorHandle | None = None

    @property
    def server(self) -> ray.actor.ActorHandle:
        """The server's handle; looked up late because servers start after the training processes."""
        if self._server is None:
            self._server = ray.get_actor(server_name(self.replica_rank))
        return self._server

    async def resume(self, tags: list[str]) -> None:
        """Bring the server's model back to its device."""
        if self.config.free_cache_engine:
            await self.server.wake_up.remote(tags=tags)

    async def release(self) -> None:
        """Free the server's device memory."""
        if self.config.free_cache_engine:
            await self.server.sleep.remote()

    @torch.no_grad()
    async def update_weights(
        self,
        weights: Generator[tuple[str, torch.Tensor], None, None],
        global_steps: int | None = None,
        wire_format: str = "named_tensors",
        **kwargs: Any,
    ) -> None:
        """Send the policy's weights.

        Args:
            weights: Names and full tensors; reading it is a collective, so it is read to its end.
            global_steps: Training step of these weights.
            wire_format: Only ``named_tensors``.
            **kwargs: verl's LoRA arguments; adapters arrive merged (``model.lora.merge=true``).

        Raises:
            ValueError: If weights come in another form.
        """
        if wire_format != "named_tensors":
            raise ValueError(f"ROLLOUT_ENGINE=hf takes named_tensors, got wire_format={wire_format!r}")
        if kwargs.get("peft_config") is not None:
            raise ValueError("ROLLOUT_ENGINE=hf takes merged weights: set actor_rollout_ref.model.lora.merge=true")
        limit = self.config.checkpoint_engine.update_weights_bucket_megabytes << 20
        is_first = True
        async for bucket, is_last in buckets(weights, limit):
            await self.server.update_weights.remote(bucket, is_first=is_first, is_last=is_last)
            is_first = False
        if global_steps is not None:
            await self.server.set_global_steps.remote(global_steps)
        await asyncio.sleep(0)


async def buckets(
    weights: Iterable[tuple[str, torch.Tensor]] | AsyncIterable[tuple[str, torch.Tensor]], limit: int
) -> AsyncIterator[tuple[list[tuple[str, torch.Tensor]], bool]]:
    """Group tensors on the CPU into lists of at most ``limit`` bytes (one larger tensor makes a separate list).

    Args:
        weights: Of the model engine in the same process, or as a checkpoint engine receives them.
        limit: Bytes.

    Yields:
        The list, and whether it is the last.
    """
    bucket: list[tuple[str, torch.Tensor]] = []
    size = 0
    async for name, tensor in ensure_async_iterator(weights):
        tensor = tensor.detach().cpu()
        nbytes = tensor.numel() * tensor.element_size()
        if bucket and size + nbytes > limit:
            yield bucket, False
            bucket, size = [], 0
        bucket.append((name, tensor))
        size += nbytes
    yield bucket, True


private.check("common/hf_engine/rollout.py")
_ROLLOUT_REGISTRY[(ENGINE, "async")] = f"{__name__}.{ServerAdapter.__name__}"
RolloutReplicaRegistry.register(ENGINE, lambda: HFReplica)
