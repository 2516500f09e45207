"""Attention over packed sequences on torch's SDPA, registered with transformers as ``sdpa_varlen``.

What flash-attn's varlen kernel is to a GPU: verl removes the padding of a micro-batch and puts its sequences one behind
the other (``use_remove_padding``); each attends to itself alone. So no time goes into padding, and the causal half of
the scores that is masked is not computed at all.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask

NAME = "sdpa_varlen"


def sequence_bounds(position_ids: torch.Tensor) -> list[tuple[int, int]]:
    """Begin and end of each packed sequence; one begins wherever the position is 0.

    Args:
        position_ids: Shape (1, tokens), counted from 0 in each sequence.
    """
    starts = (position_ids[0] == 0).nonzero().flatten().tolist()
    return list(zip(starts, [*starts[1:], position_ids.shape[-1]], strict=True))


def sdpa_varlen(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each packed sequence to itself.

    Args:
        module: The attention layer.
        query: Shape (1, heads, tokens, head size); all sequences, one behind the other.
        key: Shape (1, key-value heads, tokens, head size).
        value: As ``key``.
        attention_mask: None; padding is not possible here.
        position_ids: Shape (1, tokens).
        sliding_window: Tokens that a token sees, itself included; None: all before it.
        **kwargs: Of transformers' ``sdpa`` attention.

    Returns:
        Shape (1, tokens, heads, head size), and None for the weights.

    Raises:
        ValueError: If the batch is padded, or its positions are not known.
    """
    if attention_mask is not None or position_ids is None or query.shape[0] != 1:
        raise ValueError(
            f"attention {NAME}: needs sequences without padding in one row (use_remove_padding=true); for padded "
            "batches set ATTENTION=sdpa"
        )
    parts = []
    for begin, end in sequence_bounds(position_ids):
        part = (tensor[:, :, begin:end] for tensor in (query, key, value))
        window = _window_mask(end - begin, sliding_window, query.device)
        parts.append(sdpa_attention_forward(module, *part, window, **kwargs)[0])
    return torch.cat(parts, dim=1), None


def _window_mask(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """What a token may see where the window is shorter than the sequence, shape (1, 1, length, length)."""
    if not sliding_window or sliding_window >= length:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return ((distance >= 0) & (distance < sliding_window))[None, None]


AttentionInterface.register(NAME, sdpa_varlen)
AttentionMaskInterface.register(NAME, flash_attention_mask)
