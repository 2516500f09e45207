"""Attention with padding: micro-batches are filled by the tokens that they have once they are padded.

Target: `rearrange_micro_batches`, verl/utils/seqlen_balancing.py:348.

verl counts real tokens against the limit, and the engine then pads each row to the longest: 2 to 4 times
TOKENS_PER_GPU where answers differ in length (``benchmarks/padding.py``), in memory and in work. Here rows of like
length go together and a micro-batch has at most so many tokens, padding counted.

Upstream: not reported.

Until: verl counts the padding of engines that pad.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import distributed


def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
    """Micro-batches whose padded size is within the limit."""

    def rearrange(
        batch: Any,
        max_token_len: int,
        dp_group: Any = None,
        num_batches_divided_by: int | None = None,
        same_micro_num_in_dp: bool = True,
        min_num_micro_batch: int | None = None,
        use_dynamic_bsz_balance: bool = True,
        force_group_size: int = 1,
    ) -> tuple[list[Any], list[list[int]]]:
        from verl.utils.tensordict_utils import index_select_tensor_dict

        longest = lengths(batch).view(-1, force_group_size).amax(1).tolist()
        parts = fill(longest, max_token_len // force_group_size)
        count = max(len(parts), min_num_micro_batch or 1)
        if same_micro_num_in_dp:
            count = most(count, dp_group)
        step = num_batches_divided_by or 1
        parts = split(parts, -(-count // step) * step)
        rows = [[one * force_group_size + at for one in part for at in range(force_group_size)] for part in parts]
        return [index_select_tensor_dict(batch, part) for part in rows], rows

    return rearrange


def lengths(batch: Any) -> torch.Tensor:
    """Tokens of each row, shape (rows,)."""
    ids = batch["input_ids"]
    return ids.offsets().diff() if ids.is_nested else batch["attention_mask"].sum(1)


def fill(longest: list[int], limit: int) -> list[list[int]]:
    """Rows of like length together, as many as fit.

    Args:
        longest: Tokens of each row, or of the longest in each group of rows that belong together.
        limit: Rows times the longest of a part; one row above it is a separate part.

    Returns:
        Numbers of the rows, by parts; the longest come first.
    """
    parts: list[list[int]] = []
    for row in sorted(range(len(longest)), key=longest.__getitem__, reverse=True):
        if parts and (len(parts[-1]) + 1) * longest[parts[-1][0]] <= limit:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def split(parts: list[list[int]], count: int) -> list[list[int]]:
    """So many parts: the ones with most rows are halved.

    Raises:
        ValueError: If there are fewer rows.
    """
    rows = sum(map(len, parts))
    if rows < count:
        raise ValueError(f"{rows} rows cannot fill {count} micro-batches, as many as another process needs")
    parts = list(parts)
    while len(parts) < count:
        largest = max(range(len(parts)), key=lambda number: len(parts[number]))
        half = len(parts[largest]) // 2
        parts[largest : largest + 1] = [parts[largest][:half], parts[largest][half:]]
    return parts


def most(count: int, group: Any) -> int:
    """The largest of a number over the processes of a group; the number itself without one."""
    if group is None or not distributed.is_initialized():
        return count
    from verl.utils.device import get_device_name

    found = torch.tensor([count], device=get_device_name())
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX, group=group)
    return int(found.item())
