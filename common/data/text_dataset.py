"""Continued pretraining: raw text, packed into sequences of MAX_LENGTH tokens, each token learnt.

Documents follow one another, each with the tokenizer's end token behind it, and are cut where a sequence is full.
Positions begin at 0 in each piece of a document, and attention without padding (``flash_attention_2``, ``sdpa_varlen``)
takes each such beginning as a sequence of its own, so that no token sees another document. With padding (``sdpa``,
``eager``) attention knows one sequence, and tokens see the documents before theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from verl.utils.dataset.dataset_utils import DatasetPadMode

from common.data.readers.parquet_reader import parquet_batches

ROWS = 256  # of a batch for the tokenizer


class TextDataset(Dataset):
    """Texts as packed sequences; the arguments are those with which verl makes a dataset of SFT.

    Args:
        parquet_files: Files with a column ``text``.
        tokenizer: Of the model; it must have an end token.
        config: verl's ``data``: ``max_length``, ``pad_mode``.
        processor: Unused.
        max_samples: Texts to take at most; -1: all.

    Raises:
        ValueError: If there is no end token, no text, or ``pad_mode`` wants padding.
    """

    def __init__(self, parquet_files: Any, tokenizer: Any, config: Any, processor: Any = None, max_samples: int = -1):
        if tokenizer.eos_token_id is None:
            raise ValueError("DATA_FORM=text: the tokenizer has no end token, which goes behind each text")
        if config.get("pad_mode") != DatasetPadMode.NO_PADDING:
            raise ValueError(f"data.pad_mode={config.get('pad_mode')}: packed texts need no_padding")
        self.length = int(config.get("max_length") or 1024)
        files = [parquet_files] if isinstance(parquet_files, str) else list(parquet_files)
        documents, pieces = 0, []
        for ids in _documents(files, tokenizer, max_samples):
            documents += 1
            pieces.append(np.asarray(ids, dtype=np.int32))
        if not pieces:
            raise ValueError(f"{', '.join(files)}: no text to learn from")
        self.ids = np.concatenate(pieces)
        starts = np.cumsum([0, *map(len, pieces[:-1])])
        self.starts = np.zeros(len(self.ids), dtype=bool)
        self.starts[starts] = True
        print(f"texts: {documents:,}, {len(self.ids):,} tokens with their ends, {len(self):,} sequences")

    def __len__(self) -> int:
        """Sequences; a last one of a single token, which teaches nothing, is not there."""
        whole, rest = divmod(len(self.ids), self.length)
        return whole + (rest > 1)

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        """``input_ids``, ``position_ids``, ``loss_mask`` of a sequence, each of the shape (tokens,).

        All tokens are learnt but the first of each piece, before which the model sees nothing.
        """
        keep = slice(item * self.length, (item + 1) * self.length)
        ids = torch.from_numpy(self.ids[keep].astype(np.int64))
        begins = self.starts[keep].copy()
        begins[0] = True
        at = np.arange(len(begins))
        positions = at - np.maximum.accumulate(np.where(begins, at, 0))
        return {
            "input_ids": ids,
            "position_ids": torch.from_numpy(positions),
            "loss_mask": torch.from_numpy((~begins).astype(np.int64)),
        }


def _documents(files: Iterable[str], tokenizer: Any, limit: int) -> Iterable[list[int]]:
    """Token ids of each text, as the tokenizer begins one, with the end token behind it."""
    left = limit if limit > 0 else None
    for file in files:
        for batch in parquet_batches(Path(file), ["text"]):
            texts = batch.column(0).to_pylist()
            if left is not None:
                texts, left = texts[:left], left - len(texts[:left])
            for start in range(0, len(texts), ROWS):
                for ids in tokenizer(texts[start : start + ROWS])["input_ids"]:
                    yield ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]
