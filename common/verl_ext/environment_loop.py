"""verl's agent loop over episodes of an environment (``ENV_PATH``): the model acts, it observes and rewards.

Only the model's own tokens are trained on; an episode's reward is the sum of its steps' and takes the place of a reward
function's. An episode that the environment failed counts 0 and is not trained on.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register
from verl.utils.profiler import simple_timer

from common.verl_ext import private
from common.verl_ext.environments import Environments, Episode, EpisodeFailed
from common.verl_ext.observations import cut, with_observation
from common.worker import WorkerDied

private.check("common/verl_ext/environment_loop.py")

logger = logging.getLogger(__name__)
# Of a row as verl hands it over, what is verl's own.
OF_VERL = {"raw_prompt", "uid", "session_id", "global_steps", "agent_name", "index", "tools_kwargs", "validate"}
OF_VERL |= {"interaction_kwargs", "priority", "dummy_tensor"}
_environments: dict[str, Environments] = {}  # by file: one for all answers of this agent worker


def plain(value: Any) -> Any:
    """The value without numpy's types, which an environment need not have installed."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def row_of(fields: dict[str, Any]) -> dict[str, Any]:
    """The row of the data as ``reset`` gets it: its columns, ``prompt`` among them."""
    kept = {name: value for name, value in fields.items() if name not in OF_VERL and not name.startswith("__")}
    kept = {name: plain(value) for name, value in kept.items() if not isinstance(value, torch.Tensor)}
    return {**kept, "prompt": plain(list(fields["raw_prompt"]))}


@dataclass
class Played:
    """A conversation as it grows.

    Args:
        messages: Its turns.
        ids: Tokens of the prompt and of all turns.
        mask: 1 for each token of the model after the prompt, 0 for an observation's.
        log_probs: Of the same tokens; None where the engine gives none.
        reward: Sum of the steps'.
        success: Whether the environment said so.
        answers: Turns of the model.
        failure: What the environment did wrong, "" for nothing.
        fields: ``extra_fields`` of verl.
    """

    messages: list[dict[str, Any]]
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    log_probs: list[float] | None = None
    reward: float = 0.0
    success: bool = False
    answers: int = 0
    failure: str = ""
    routed_experts: Any = None
    preempted: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)


class PromptTooLong(ValueError):
    """The prompt with its first observation is longer than ``MAX_PROMPT_LENGTH``."""


@register("kit_environment_agent")
class EnvironmentLoop(AgentLoopBase):
    """Plays one episode for each answer."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        path = os.environ["ENV_PATH"]
        if path not in _environments:
            limit_s, seed = float(os.environ.get("ENV_TIMEOUT", "30")), int(os.environ.get("SEED", "1"))
            _environments[path] = Environments(path, limit_s, seed)
        self.environments = _environments[path]
        self.failed = False  # of a failed episode no token is trained on, so its prompt may be cut
        self.room = self.rollout_config.response_length
        turns = self.rollout_config.multi_turn
        self.max_turns, self.max_observation = turns.max_assistant_turns, turns.max_tool_response_length

    def _cap_text_prompt_length(self, prompt_ids: list[int]) -> list[int]:
        if len(prompt_ids) > self.rollout_config.prompt_length and not self.failed:
            raise PromptTooLong(
                f"the prompt with its first observation has {len(prompt_ids)} tokens and MAX_PROMPT_LENGTH is "
                f"{self.rollout_config.prompt_length}; raise it"
            )
        return super()._cap_text_prompt_length(prompt_ids)

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        """Play an episode.

        Args:
            sampling_params: Of the run.
            priority: Of verl.
            **kwargs: The row.

        Returns:
            verl's output; ``reward_extra_info`` has ``success``, ``turns`` and ``env_failure`` next to the score.
        """
        row, metrics = row_of(kwargs), {}
        played = Played(list(row["prompt"]))
        episode: Episode | None = None
        try:
            episode = await self.environments.run(self.environments.open, row)
            first = await self._ask(episode, metrics, "reset", row)
            messages = with_observation(played.messages, cut(first, self.max_observation))
            played.ids = await self.ct_build_initial_tokens(messages)
            played.messages = messages
        except (EpisodeFailed, WorkerDied, PromptTooLong, ConnectionError) as error:
            played.failure, self.failed = str(error), True
            played.ids = await self.ct_build_initial_tokens(played.messages)
        request_id = f"det-{priority}" if self.rollout_config.full_determinism else uuid4().hex
        try:
            while await self._turn(played, episode, metrics, request_id, sampling_params):
                pass
        finally:
            if episode is not None:
                episode.close()
        return self._output(played, metrics)

    async def _ask(self, episode: Episode, metrics: dict[str, Any], name: str, value: Any) -> Any:
        with simple_timer("tool_calls", metrics):
            return await self.environments.run(episode.ask, name, value)

    async def _turn(
        self,
        played: Played,
        episode: Episode | None,
        metrics: dict[str, Any],
        request_id: str,
        sampling_params: dict[str, Any],
    ) -> bool:
        """The model acts and the environment observes; returns whether the episode goes on."""
        with simple_timer("generate_sequences", metrics):
            output = await self.server_manager.generate(
                request_id=request_id,
                prompt_ids=played.ids,
                sampling_params={**sampling_params, "max_tokens": self.room - len(played.mask)},
            )
        await self._add_answer(played, output)
        whole = len(played.mask) < self.room or output.token_ids[-1:] == [self.tokenizer.eos_token_id]
        if played.failure or episode is None or not whole:  # half an answer is no action
            return False
        action = self.tokenizer.decode(output.token_ids, skip_special_tokens=True)
        try:
            observation, reward, done, played.success = await self._ask(episode, metrics, "step", action)
        except EpisodeFailed as error:
            played.failure = str(error)
            return False
        played.reward += reward
        if done or played.answers >= self.max_turns:
            return False
        return await self._add_observation(played, action, cut(observation, self.max_observation))

    async def _add_answer(self, played: Played, output: Any) -> None:
        played.answers += 1
        if output.num_preempted is not None:
            played.preempted = (played.preempted or 0) + output.num_preempted
        fields = output.extra_fields or {}
        newest = fields.get("max_global_steps")
        played.fields = {**fields, **played.fields} | ({"max_global_steps": newest} if newest is not None else {})
        if played.log_probs is None and output.log_probs and not played.mask:
            played.log_probs = []
        merged, played.mask, log_probs = await self.ct_merge_assistant_token(
            played.ids,
            output.token_ids,
            played.mask,
            played.log_probs,
            assistant_logprobs=output.log_probs if played.log_probs is not None else None,
        )
        played.ids = merged.token_ids
        played.log_probs = log_probs if played.log_probs is not None else None
        if output.routed_experts is not None:
            played.routed_experts = output.routed_experts

    async def _add_observation(self, played: Played, action: str, observation: str) -> bool:
        """Add the turn of the environment; returns whether there is room for an answer to it."""
        before = [*played.messages, {"role": "assistant", "content": action}]
        after = [*before, {"role": "user", "content": observation}]
        merged, mask, log_probs = await self.ct_merge_context_msg(
            before, after, played.ids, played.mask, played.log_probs
        )
        if len(mask) >= self.room:
            return False
        played.messages, played.ids, played.mask = after, merged.token_ids, mask
        if played.log_probs is not None:
            played.log_probs = log_probs
        return True

    def _output(self, played: Played, metrics: dict[str, Any]) -> AgentLoopOutput:
        if played.failure:
            logger.warning("An episode failed, counts 0 and is not trained on: %s", played.failure[:500])
            played.mask, played.reward, played.success = [0] * len(played.mask), 0.0, False
        start = len(played.ids) - len(played.mask)
        metrics["num_preempted"] = -1 if played.preempted is None else played.preempted
        success = float(played.success)
        figures = {"acc": success, "success": success, "turns": float(played.answers)}
        figures["env_failure"] = float(bool(played.failure))
        experts = played.routed_experts
        return AgentLoopOutput(
            prompt_ids=played.ids[:start],
            response_ids=played.ids[start:][: self.room],
            response_mask=played.mask[: self.room],
            response_logprobs=played.log_probs[: self.room] if played.log_probs else None,
            routed_experts=experts[: start + self.room] if experts is not None else None,
            multi_modal_data={},
            reward_score=played.reward,
            num_turns=2 * played.answers,
            metrics=metrics,
            extra_fields={
                **played.fields,
                "turn_scores": [],
                "tool_rewards": [],
                "reward_extra_info": {"score": played.reward, **figures},
            },
        )
