"""verl's reward workers ask a reward model on the rollout engine ``hf`` as they ask one on vLLM.

Target: `RewardLoopWorker.compute_score_disrm`, verl/experimental/reward_loop/reward_loop.py:231.

verl asks the router of its reward model servers for ``/classify`` when the engine is vLLM, and refuses engines that it
does not know. For ``hf`` the request and the reading of the reply are the same; the server is
``common/hf_engine/reward_server.py``.

Upstream: no issue known.

Until: verl lets a rollout engine say how its reward model is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from common.verl_ext import private


def replacement(original: Callable[..., Awaitable[dict[str, float]]]) -> Callable[..., Awaitable[dict[str, float]]]:
    """The question for ``hf``, the original for all other engines."""
    private.check("common/verl_ext/hf_reward.py")

    async def compute_score_disrm(self: Any, data: Any) -> dict[str, float]:
        if self.config.reward.reward_model.rollout.name != "hf":
            return await original(self, data)
        text = await self._preprocess_reward_inputs(data)
        model = self.config.reward.reward_model.model_path
        payload = {"model": model, "input": text, "use_activation": False}
        output = await self._post_request(payload, "classify")
        return {"reward_score": output["data"][-1]["probs"][-1]}

    return compute_score_disrm
