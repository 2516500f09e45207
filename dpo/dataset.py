"""Preference pairs as the two token sequences that the model reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset
from verl.utils.dataset.dataset_utils import SFTTensorCollator

from common.data.conversation import SIDES, Renderer, RenderError, Side, answer_tokens, thinking_of

BATCH = 512  # rows that are read at once


class PreferenceDataset(Dataset):
    """Pairs of answers to one prompt, tokenised with the model's chat template.

    A prompt above ``max_prompt_length`` loses its beginning, an answer above ``max_response_length`` its end; so the
    end of the prompt and the beginning of the answer are always there. Of an answer with tool calls their results are
    shown and not learnt. Pairs whose answers are equal after the cut teach nothing; they are left out, counted and
    printed.

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
        files = [parquet_files] if isinstance(parquet_files, str) else parquet_files
        self.tokenizer, self.prompt_limit = tokenizer, config.max_prompt_length
        self.renderer = Renderer.of(tokenizer, thinking_of(config.get("enable_thinking_default")))
        self.response_limit = config.max_response_length
        self.pairs: list[tuple[Side, Side]] = []  # chosen, rejected
        self.rows: list[dict[str, Any]] = []
        self.cut = 0  # sequences so far that were cut
        self._read(rows_in(files, max_samples), ", ".join(files))

    def _read(self, rows: Iterator[dict[str, Any]], where: str) -> None:
        equal = cut = 0
        for number, row in enumerate(rows, 1):
            before = self.cut
            pair = tuple(self.side(row, name, number) for name in SIDES)
            if pair[0] == pair[1]:
                equal += 1
                continue
            cut += self.cut > before
            self.pairs.append(pair)
            self.rows.append(row)
        if not self.pairs:
            raise ValueError(f"{where}: no pair to learn from ({equal} with equal answers)")
        print(f"preference pairs: {len(self.pairs)}, cut to the length limits: {cut}, equal answers left out: {equal}")

    def side(self, row: dict[str, Any], name: str, number: int) -> Side:
        """The prompt and one answer of a row, within the limits.

        Raises:
            ValueError: If the chat template cannot show it.
        """
        try:
            whole = answer_tokens(self.renderer, self.tokenizer, row, name)
        except RenderError as error:
            raise ValueError(f"row {number}: {error}") from error
        cut = self._cut(whole)
        self.cut += cut != whole
        return cut

    def _cut(self, side: Side) -> Side:
        answer = side.mask.index(1)
        kept = slice(max(0, answer - self.prompt_limit), answer + self.response_limit)
        return Side(side.ids[kept], side.mask[kept])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        """The chosen and the rejected sequence of a pair, in this order."""
        return [_sequence(side, index) for side in self.pairs[index]]


def rows_in(files: Sequence[str], most: int = -1) -> Iterator[dict[str, Any]]:
    """The rows of some parquet files one after the other, at most so many; -1 for all."""
    import pyarrow.parquet as pq

    rows = (
        row
        for file in files
        for batch in pq.ParquetFile(file).iter_batches(batch_size=BATCH)
        for row in batch.to_pylist()
    )
    return islice(rows, most) if most > 0 else rows


def _sequence(side: Side, index: int) -> dict[str, Any]:
    ids, mask = torch.tensor(side.ids), torch.tensor(side.mask)
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
