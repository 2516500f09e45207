"""verl's reward model (``reward.reward_model``) on the engine ``hf``: its server, and verl's question to it.

verl asks the router of its reward model servers for ``/classify`` when the engine is vLLM, and refuses engines that it
does not know (verl/experimental/reward_loop/reward_loop.py:278). The one method that does so is replaced for ``hf``,
with the same request and the same reading of the reply.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

from common.hf_engine.reward_server import RewardServer
from common.verl_source import expect_source


class HFRewardServer:
    """A `RewardServer` in a Ray actor of its own, with the calls that verl makes on a rollout server.

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


def classify_on_hf() -> None:
    """Let verl's reward workers ask ``/classify`` of the engine ``hf`` as they ask vLLM."""
    original = RewardLoopWorker.compute_score_disrm
    expect_source(
        original, 'output = await self._post_request(payloads, "classify")', "reward model on ROLLOUT_ENGINE=hf"
    )

    async def compute_score_disrm(self: RewardLoopWorker, data: Any) -> dict[str, float]:
        if self.config.reward.reward_model.rollout.name != "hf":
            return await original(self, data)
        text = await self._preprocess_reward_inputs(data)
        model = self.config.reward.reward_model.model_path
        payload = {"model": model, "input": text, "use_activation": False}
        output = await self._post_request(payload, "classify")
        return {"reward_score": output["data"][-1]["probs"][-1]}

    RewardLoopWorker.compute_score_disrm = compute_score_disrm


classify_on_hf()
