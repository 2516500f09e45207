"""One conversation through an agent loop of the kit's, with prepared answers in place of a rollout server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any


class Scripted:
    """A rollout server that gives prepared answers, within a limit if there is one, and notes prompts and limits.

    Args:
        tokenizer: Of the model that is played.
        answers: Texts, one a call.
        fields: The ``extra_fields`` of the n-th answer.
    """

    def __init__(self, tokenizer: Any, answers: Sequence[str], fields: Callable[[int], dict[str, Any]]):
        self.tokenizer, self.answers, self.fields = tokenizer, list(answers), fields
        self.prompts, self.limits = [], []

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], **options: Any) -> Any:
        """The next answer, with a log-probability of -0.5 for each token."""
        from verl.workers.rollout.replica import TokenOutput

        self.prompts.append(self.tokenizer.decode(prompt_ids))
        self.limits.append(sampling_params.get("max_tokens"))
        ids = self.tokenizer(self.answers.pop(0) + "<|im_end|>", add_special_tokens=False)["input_ids"]
        ids = ids[: self.limits[-1]]
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids), extra_fields=self.fields(len(self.prompts)))


def converse(
    loop: Callable[..., Any],
    server: Scripted,
    turns: dict[str, Any],
    lengths: tuple[int, int],
    given: dict,
    **more: Any,
) -> tuple[Any, str]:
    """Make a loop as verl does and run it once.

    Args:
        loop: Its class.
        server: What answers.
        turns: ``rollout.multi_turn``.
        lengths: Tokens of a prompt and of a response at most.
        given: What the loop is run with next to the sampling parameters.
        more: Of the loop's constructor.

    Returns:
        verl's output, and its response as text.
    """
    from omegaconf import OmegaConf
    from verl.experimental.agent_loop.agent_loop import DictConfigWrap
    from verl.utils.dataset.rl_dataset import RLHFDataset

    rollout = {"multi_turn": turns, "prompt_length": lengths[0], "response_length": lengths[1]}
    rollout["full_determinism"] = False
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}, "data": {}})
    options = dict(
        trainer_config=DictConfigWrap(config),
        server_manager=server,
        tokenizer=server.tokenizer,
        processor=None,
        dataset_cls=RLHFDataset,
        data_config=DictConfigWrap(config.data),
        hf_model_type="qwen2",
        **more,
    )

    async def answer() -> Any:  # the loop takes hold of the running event loop when it is made
        return await loop(**options).run({"temperature": 1.0}, **given)

    output = asyncio.run(answer())
    return output, server.tokenizer.decode(output.response_ids)
