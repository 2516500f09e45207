"""ReMax's baseline (Li et al., arXiv 2310.10505) is the reward of the greedy answer, which verl's trainer lacks.

Target: `compute_advantage_for_multi_trajectories`, verl/trainer/ppo/v1/utils.py:148.

verl has the estimator, but its v1 trainer writes no greedy answer and hands it no ``reward_baselines``. Here the last
answer of each group is greedy. Its reward is the baseline of the others; it gets the advantage 0, so it is not trained
on.

Upstream: https://github.com/verl-project/verl/issues/3089 (closed; the fix is in the older trainer).

Until: verl's v1 trainer writes a greedy answer for ``adv_estimator=remax``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from common.verl_ext.tool_loop import KitToolAgentLoop

GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": -1}


def sampling_of(session: int, group: int, sampling_params: dict[str, Any]) -> dict[str, Any]:
    """Sampling parameters of one answer: the last of a group is greedy.

    Args:
        session: Number of the answer in its group, from 0.
        group: Answers per prompt, ``rollout.n``.
        sampling_params: Of the run. Validation has groups of another size, whose last answer is not reached.
    """
    return {**sampling_params, **GREEDY} if session == group - 1 else sampling_params


@register("remax_agent")
class GreedyBaselineLoop(SingleTurnAgentLoop):
    """One turn; the last answer of a group is greedy."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Answer one prompt."""
        greedy = sampling_of(kwargs["session_id"], self.rollout_config.n, sampling_params)
        return await super().run(greedy, **kwargs)


@register("remax_tool_agent")
class GreedyBaselineToolLoop(KitToolAgentLoop):
    """Turns with tools; the last answer of a group is greedy."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Answer one prompt."""
        greedy = sampling_of(kwargs["session_id"], self.rollout_config.n, sampling_params)
        return await super().run(greedy, **kwargs)


def greedy_rows(keys: list[str], group: int) -> torch.Tensor:
    """Which rows are greedy answers.

    Args:
        keys: ``uid_session_index`` of each row.
        group: Answers per prompt.

    Returns:
        Shape (rows,), bool.
    """
    return torch.tensor([int(key.rsplit("_", 2)[1]) == group - 1 for key in keys])


def baselines(rewards: torch.Tensor, uids: list[str], greedy: torch.Tensor) -> torch.Tensor:
    """The greedy answer's reward for each row of its group.

    A group without one (its greedy answer failed, or verl made it to fill up the batch) has its mean in its place.

    Args:
        rewards: Summed reward of each row, shape (rows,).
        uids: Group of each row.
        greedy: Which rows are greedy answers, shape (rows,), bool.

    Returns:
        Shape (rows,).
    """
    of_group: dict[str, list[torch.Tensor]] = {}
    for row, uid in enumerate(uids):
        of_group.setdefault(uid, []).append(rewards[row])
    values = {uid: torch.stack(members).mean() for uid, members in of_group.items()}
    values |= {uid: rewards[row] for row, uid in enumerate(uids) if greedy[row]}
    return torch.stack([values[uid] for uid in uids])


def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
    """The original, given the greedy answers' rewards where the estimator is ReMax."""

    def with_baselines(
        data: Any, batch_keys: list[str], adv_estimator: str, num_repeat: int = 1, **options: Any
    ) -> Any:
        if adv_estimator != "remax":
            return original(data, batch_keys, adv_estimator, num_repeat=num_repeat, **options)
        greedy = greedy_rows(batch_keys, num_repeat)
        scores = data.batch["token_level_scores"].sum(dim=-1)
        data.batch["reward_baselines"] = baselines(scores, list(data.non_tensor_batch["uid"]), greedy)
        data = original(data, batch_keys, adv_estimator, num_repeat=num_repeat, **options)
        data.batch["advantages"][greedy] = 0.0
        return data

    return with_baselines
