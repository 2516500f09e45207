"""verl's datasets, reading messages as ``common.data_utils`` stores them (``data.custom_cls`` in the config.yaml).

A parquet column has one shape for all its rows. So tool descriptions and the arguments of tool calls are stored as
JSON, and a message without tool calls comes back with null ones, where chat templates only ask whether the key is
there. verl hands both to the template as they are; these two classes put them right first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from verl.utils.dataset.dataset_utils import DatasetPadMode
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
from verl.utils.dataset.rl_dataset import RLHFDataset

from common.data.conversation import Renderer, RenderError, thinking_of
from common.data.order import order_of
from common.data.readers.parquet_reader import parquet_batches
from common.data.rows import loaded
from common.data.text_dataset import TextDataset
from common.verl_ext import private

__all__ = ["PromptDataset", "SFTDataset", "TextDataset"]
private.check("common/data/verl_datasets.py")


class SFTDataset(MultiTurnSFTDataset):
    """Conversations, each rendered whole by ``common.data.conversation``; rows are read from the file when asked for.

    verl renders each turn alone and joins them: wrong tokens, or an error, for most chat templates.
    ``data.enable_thinking_default`` (the knob THINKING) says whether thoughts are shown; a row's own
    ``enable_thinking`` wins.
    """

    def _read_files_and_process(self) -> None:
        import pyarrow as pa

        tables = [_table_of(file) for file in self.parquet_files]
        self.table = pa.concat_tables(tables, promote_options="permissive")
        total = len(self.table)
        if 0 < self.max_samples < total:
            self.table = self.table.take(_chosen(total, self.max_samples, self.shuffle, self.seed))
        self.table = self.table.combine_chunks()
        self.renderer = Renderer.of(
            self.tokenizer, thinking_of(self.enable_thinking_default), **self.apply_chat_template_kwargs
        )
        print(f"conversations: {len(self.table)} of {total}")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """``input_ids``, ``position_ids`` and ``loss_mask`` (1: learnt) of a row, each of the shape (tokens,).

        Raises:
            ValueError: If the chat template cannot show the row, or it is too long for ``truncation=error``.
        """
        row = self.table.slice(item, 1).to_pylist()[0]
        if row.get(self.image_key) or row.get(self.video_key):
            raise ValueError(f"row {item + 1}: has images or videos; SFT learns from text only")
        try:
            ids, mask = self.renderer.tokens(
                self.tokenizer, row[self.messages_key], row.get(self.tools_key), row.get(self.enable_thinking_key)
            )
        except RenderError as error:
            raise ValueError(f"row {item + 1}: {error}") from error
        return self._sized(torch.tensor(ids), torch.tensor(mask))

    def _sized(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cut to ``max_length``, and padded to it for ``pad_mode=right``; shapes (tokens,)."""
        limit = self.max_length
        if len(ids) > limit and self.truncation == "error":
            raise ValueError(f"sequence_length={len(ids)} is larger than max_length={limit}")
        keep = slice(-limit, None) if self.truncation == "left" else slice(limit)
        ids, mask = ids[keep], mask[keep]
        made = {"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask}
        if self.pad_mode == DatasetPadMode.NO_PADDING:
            return made
        made["attention_mask"] = torch.ones_like(ids)
        short, pad = limit - len(ids), self.tokenizer.pad_token_id or 0
        return {name: F.pad(value, (0, short), value=pad * (name == "input_ids")) for name, value in made.items()}


def _table_of(file: str) -> Any:
    """A parquet file as an Arrow table; raises as ``_batches_of``."""
    import pyarrow as pa

    schema, batches = _batches_of(file)
    return pa.Table.from_batches(batches, schema)


def _memory_mapped(file: str, target: Path) -> Any:
    """A parquet file as a dataset whose rows stay on the disk, in a new file; raises as ``_batches_of``."""
    import datasets
    import pyarrow as pa

    schema, batches = _batches_of(file)
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    return datasets.Dataset.from_file(str(target))


def _batches_of(file: str) -> tuple[Any, Iterator[Any]]:
    """Schema and batches of a parquet file, decoded within the limits of ``common.data.readers.parquet_reader``.

    Raises:
        DataError: If it cannot be read, or becomes much larger than the file, as zip bombs do.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    batches = parquet_batches(Path(file))
    first = next(batches, None)
    if first is None:
        schema = pq.read_schema(file)
        return schema, iter([pa.RecordBatch.from_pylist([], schema)])
    return first.schema, chain([first], batches)


def _chosen(total: int, size: int, shuffle: bool, seed: int | None) -> Any:
    """Numbers of the rows that ``max_samples`` keeps, shape (size,): the first ones, or as verl draws them."""
    import numpy as np

    return np.random.default_rng(seed).choice(total, size=size, replace=False) if shuffle else np.arange(size)


class PromptDataset(RLHFDataset):
    """Prompts with tool calls in them; reward functions find the messages in ``extra_info["prompt"]``."""

    def _read_files_and_tokenize(self) -> None:
        """As verl's, each file decoded within limits into a memory-mapped one, which goes once it is open.

        Raises:
            DataError: As ``_batches_of``.
        """
        import datasets

        cache = Path(datasets.config.HF_DATASETS_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="verl-kit-", dir=cache, ignore_cleanup_errors=True) as folder:
            self.dataframe = datasets.concatenate_datasets(
                [_memory_mapped(file, Path(folder, f"{number}.arrow")) for number, file in enumerate(self.data_files)]
            )
            total = len(self.dataframe)
            if 0 < self.max_samples < total:
                self.dataframe = self.dataframe.select(_chosen(total, self.max_samples, self.shuffle, self.seed))
            self.dataframe = self.maybe_filter_out_long_prompts(self.dataframe)
            self.dataframe = self._in_order(self.dataframe)
        print(f"prompts: {len(self.dataframe)} of {total}")

    def _in_order(self, dataframe: Any) -> Any:
        """The rows to train on as ``data.order`` (DATA_ORDER) wants them; those to validate on stay as they are."""
        order, training = self.config.get("order", "shuffled"), self.config.get("train_files")
        training = [training] if isinstance(training, str) else list(training or [])
        if order == "shuffled" or list(self.original_data_files) != training:
            return dataframe
        return dataframe.select(order_of(dataframe["extra_info"], order, self.seed))

    def __getitem__(self, item: int) -> dict[str, Any]:
        """A row in verl's form, its messages also where a reward function sees them."""
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
