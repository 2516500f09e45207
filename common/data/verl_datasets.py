"""verl's datasets, reading messages as ``common.data_utils`` stores them (``data.custom_cls`` in the config.yaml).

A parquet column has one shape for all its rows. So tool descriptions and the arguments of tool calls are stored as
JSON, and a message without tool calls comes back with null ones, where chat templates only ask whether the key is
there. verl 0.9.1 hands both to the template as they are; these two classes put them right first.
"""

from __future__ import annotations

from typing import Any

from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
from verl.utils.dataset.rl_dataset import RLHFDataset

from common.data.rows import loaded, loaded_tools


class SFTDataset(MultiTurnSFTDataset):
    """Conversations with tools."""

    def _read_files_and_process(self) -> None:
        super()._read_files_and_process()
        if self.tools is not None:
            self.tools = [loaded_tools(tools) for tools in self.tools]
        if self.enable_thinking is not None:  # rows that do not say have pandas' NA, which is neither true nor false
            self.enable_thinking = [value if isinstance(value, bool) else None for value in self.enable_thinking]

    def _build_messages(self, example: dict[str, Any]) -> list[dict[str, Any]]:
        return loaded(super()._build_messages(example))


class PromptDataset(RLHFDataset):
    """Prompts with tool calls in them; reward functions find the messages in ``extra_info["prompt"]``."""

    def __getitem__(self, item: int) -> dict[str, Any]:
        """A row of verl's, its messages also where a reward function sees them."""
        row = super().__getitem__(item)
        row["extra_info"] = {"prompt": row["raw_prompt"], **row["extra_info"]}
        return row

    def _build_messages(self, example: dict[str, Any], key: str) -> list[dict[str, Any]]:
        return loaded(super()._build_messages(example, key))

    def maybe_filter_out_long_prompts(self, dataframe: Any = None) -> Any:
        """Leave out long prompts, measured as the rollout will see them."""
        tokenizer = self.tokenizer
        if _has_tool_calls(dataframe, self.prompt_key):
            self.tokenizer = _Loading(tokenizer)
        try:
            return super().maybe_filter_out_long_prompts(dataframe)
        finally:
            self.tokenizer = tokenizer


class _Loading:
    """A tokenizer that puts stored messages right before it applies its template."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(loaded(messages), **options)


def _has_tool_calls(dataframe: Any, column: str) -> bool:
    messages = dataframe.features.get(column)
    return "tool_calls" in (getattr(messages, "feature", None) or {})
