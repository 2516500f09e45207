"""Preference pairs as the two token sequences that the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from verl.utils.dataset.dataset_utils import SFTTensorCollator

from common.data.rows import loaded, loaded_tools

BATCH = 512  # pairs that are tokenised at once
SIDES = ("chosen", "rejected")


class PreferenceDataset(Dataset):
    """Pairs of answers to one prompt, tokenised with the model's chat template.

    A prompt above ``max_prompt_length`` loses its beginning, an answer above ``max_response_length`` its end; so the
    end of the prompt and the beginning of the answer are always there. Pairs whose answers are equal after that teach
    nothing; they are left out, counted and printed.

    Args:
        parquet_files: Files with ``prompt``, ``chosen``, ``rejected`` (texts or lists of messages), perhaps ``tools``.
        tokenizer: Of the model.
        config: ``max_prompt_length`` and ``max_response_length`` in tokens.
        processor: Not used (text only); verl's factory gives one.
        max_samples: Rows to use at most; -1 for all.

    Raises:
        ValueError: If a row cannot be read, or no pair is left.
    """

    def __init__(
        self, parquet_files: Sequence[str], tokenizer: Any, config: Any, processor: Any = None, max_samples: int = -1
    ):
        import pyarrow.parquet as pq

        files = [parquet_files] if isinstance(parquet_files, str) else parquet_files
        self.tokenizer, self.prompt_limit = tokenizer, config.max_prompt_length
        self.response_limit = config.max_response_length
        self.pairs: list[tuple[list[int], list[int], list[int]]] = []  # prompt, chosen, rejected
        self.rows: list[dict[str, Any]] = []
        cut = equal = 0
        for file in files:
            with pq.ParquetFile(file) as source:
                for batch in source.iter_batches(batch_size=BATCH):
                    rows = batch.to_pylist()
                    if max_samples > 0:
                        rows = rows[: max_samples - len(self.pairs)]
                    for row, pair, was_cut in self._tokenised(rows):
                        if pair[1] == pair[2]:
                            equal += 1
                            continue
                        cut += was_cut
                        self.pairs.append(pair)
                        self.rows.append(row)
        if not self.pairs:
            raise ValueError(f"{', '.join(files)}: no pair to learn from ({equal} with equal answers)")
        print(f"preference pairs: {len(self.pairs)}, cut to the length limits: {cut}, equal answers left out: {equal}")

    def _tokenised(self, rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], tuple, bool]]:
        prompts, answers = [], {side: [] for side in SIDES}
        for row in rows:
            prompt, *pair = self._texts(row)
            prompts.append(prompt)
            for side, text in zip(SIDES, pair, strict=True):
                answers[side].append(text)
        if not rows:
            return []
        prompt_ids, chosen_ids, rejected_ids = (self._ids(texts) for texts in (prompts, *answers.values()))
        made = []
        for row, prompt, chosen, rejected in zip(rows, prompt_ids, chosen_ids, rejected_ids, strict=True):
            was_cut = len(prompt) > self.prompt_limit or max(len(chosen), len(rejected)) > self.response_limit
            limit = self.response_limit
            made.append((row, (prompt[-self.prompt_limit :], chosen[:limit], rejected[:limit]), was_cut))
        return made

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]

    def _texts(self, row: dict[str, Any]) -> tuple[str, str, str]:
        """Prompt and both answers as the chat template writes them; the answers with the template's end of turn."""
        prompt, tools = as_messages(row["prompt"], "user"), loaded_tools(row.get("tools"))
        opening = self._render(prompt, tools, answer_next=True)
        texts = [opening]
        for side in SIDES:
            whole = self._render([*prompt, *as_messages(row[side], "assistant")], tools, answer_next=False)
            if not whole.startswith(opening):
                raise ValueError(
                    f"the chat template writes a prompt differently when an answer follows: {opening[-60:]!r} is not "
                    "the beginning; use a template that only appends (for Qwen3, the one without thinking)"
                )
            texts.append(self._without_tail(whole[len(opening) :]))
        return tuple(texts)

    def _without_tail(self, answer: str) -> str:
        """An answer up to its end of turn; the line break that templates write behind it is never generated."""
        trimmed, end = answer.rstrip(), self.tokenizer.eos_token
        return trimmed if end and trimmed.endswith(end) else answer

    def _render(self, messages: list[dict[str, Any]], tools: Any, answer_next: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=answer_next
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        """The chosen and the rejected sequence of a pair, in this order."""
        prompt, *answers = self.pairs[index]
        return [_sequence(prompt, answer, index) for answer in answers]


def as_messages(value: Any, role: str) -> list[dict[str, Any]]:
    """A text as one message, messages as they were before parquet."""
    return [{"role": role, "content": value}] if isinstance(value, str) else loaded(value)


def _sequence(prompt: list[int], answer: list[int], index: int) -> dict[str, Any]:
    ids = torch.tensor(prompt + answer)
    mask = torch.zeros_like(ids)
    mask[len(prompt) :] = 1
    return {"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask, "pair": torch.tensor([index])}


class PairCollator:
    """Joins pairs to a batch of 2 x pairs sequences, chosen and rejected in turn, without padding."""

    def __init__(self) -> None:
        self.collate = SFTTensorCollator("no_padding")

    def __call__(self, pairs: list[list[dict[str, Any]]]) -> dict[str, Any]:
        """Nested tensors of the shape (2 x pairs, tokens), and ``pair`` of the shape (2 x pairs,)."""
        batch = self.collate([sequence for pair in pairs for sequence in pair])
        batch["pair"] = batch["pair"].values()
        return batch
