"""Sequence parallel for ``sdpa_varlen``: GPUs that share a packed batch exchange parts of it for heads (Ulysses).

Each GPU computes its part of the tokens everywhere but in the attention, where it computes its part of the heads for
all tokens (DeepSpeed-Ulysses, arXiv 2309.14509). verl has the exchange in flash-attention's call only
(models/transformers/monkey_patch.py: `_ulysses_flash_attention_forward`); this is the same for the kit's attention.
"""

from __future__ import annotations

import sys
import weakref

import torch
import torch.distributed as dist


def group() -> dist.ProcessGroup | None:
    """The GPUs that share this GPU's sequences, None without sequence parallel."""
    ulysses = sys.modules.get("verl.utils.ulysses")  # a trainer has it; an evaluation need not load verl
    return ulysses.get_ulysses_sequence_parallel_group() if ulysses else None


def tokens_for_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, together: dist.ProcessGroup
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give away heads and get tokens.

    Key-value heads that are fewer than the GPUs are repeated first, each to the GPUs whose query heads ask for it.

    Args:
        query: Shape (1, heads, tokens / n, head size).
        key: Shape (1, key-value heads, tokens / n, head size).
        value: As ``key``.
        together: The n GPUs.

    Returns:
        The three with all tokens and heads / n.
    """
    from verl.utils.ulysses import gather_seq_scatter_heads

    repeats = max(1, dist.get_world_size(together) // key.shape[1])
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    query, key, value = (
        gather_seq_scatter_heads(tensor, seq_dim=2, head_dim=1, group=together) for tensor in (query, key, value)
    )
    return query, key, value


def heads_for_tokens(out: torch.Tensor, together: dist.ProcessGroup) -> torch.Tensor:
    """The way back: shape (1, tokens, heads / n, head size) to (1, tokens / n, heads, head size)."""
    from verl.utils.ulysses import gather_heads_scatter_seq

    return gather_heads_scatter_seq(out, head_dim=2, seq_dim=1, group=together)


class AllPositions:
    """Positions of all tokens, asked for once for each micro-batch: all layers have the same."""

    def __init__(self) -> None:
        self.of, self.version, self.positions = None, -1, None

    def __call__(self, position_ids: torch.Tensor, together: dist.ProcessGroup) -> torch.Tensor:
        """Shape (1, tokens / n) to (1, tokens)."""
        known = self.of() if self.of is not None else None
        if known is not position_ids or self.version != position_ids._version:
            parts = [torch.empty_like(position_ids) for _ in range(dist.get_world_size(together))]
            dist.all_gather(parts, position_ids.contiguous(), group=together)
            self.positions = torch.cat(parts, dim=-1)
            self.of, self.version = weakref.ref(position_ids), position_ids._version
        return self.positions
