"""verl's reward model (``reward.reward_model``) on the engine ``hf``: its server in a Ray actor."""

from __future__ import annotations

import os
from typing import Any

import ray

from common.hf_engine.reward_server import RewardServer


class HFRewardServer:
    """A `RewardServer` in a separate Ray actor, with the calls that verl makes on a rollout server.

    Args:
        path: Folder of the reward model.
        device: ``cpu`` or ``cuda``.
        num_threads: Torch threads.
        max_length: Longest input, tokens.
    """

    def __init__(self, path: str, device: str, num_threads: int, max_length: int | None):
        self.server = RewardServer(path, device, num_threads, max_length)

    async def start(self) -> str:
        """Open the port; returns the address for verl's router."""
        return await self.server.start()

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Bring the model back to its device."""
        self.server.model.to(self.server.device)

    async def sleep(self) -> None:
        """Give the device's memory back."""
        if self.server.device.type == "cuda":
            self.server.model.to("cpu")


async def launch(replica: Any, scheduling: Any, env_vars: dict[str, str], device: str) -> tuple[Any, str]:
    """Start the server of a replica; returns its handle and its address."""
    server = (
        ray.remote(HFRewardServer)
        .options(
            name=f"hf_server_reward_{replica.replica_rank}_0",
            num_cpus=0,
            max_concurrency=replica.max_concurrency,
            runtime_env={"env_vars": env_vars},
            scheduling_strategy=scheduling,
        )
        .remote(
            path=replica.model_config.local_path,
            device=device,
            num_threads=max(1, len(os.sched_getaffinity(0)) // replica.gpus_per_node),
            max_length=replica.config.max_model_len,
        )
    )
    return server, await server.start.remote()
