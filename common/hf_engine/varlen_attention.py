"""Attention over packed sequences, registered with transformers as ``sdpa_varlen``; nothing to install.

verl removes the padding of a micro-batch and puts its sequences one behind the other (``use_remove_padding``); each
attends to itself alone. So no time and no memory go into padding, which multiplies a micro-batch by about 3.

On CUDA in half precision the kernel is torch's own copy of flash-attention (``torch.nn.attention.varlen``, torch 2.11
and newer, with a backward). Elsewhere, and for heads that the kernel does not take, torch's SDPA runs on each sequence.
"""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask

from common.hf_engine import sequence_parallel

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10: SDPA on each sequence
    varlen_attn = None

NAME = "sdpa_varlen"
# torch 2.11 silently takes fewer key-value heads than query heads, newer ones need an argument.
GROUPED = {"enable_gqa": True} if varlen_attn and "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
LARGEST_HEAD = 256  # numbers of a head that flash-attention's kernel takes
PACKED_LAYERS = {"full_attention", "sliding_attention"}
NOT_COMPUTED = ("softcap", "s_aux")  # Gemma 2's capped scores, gpt-oss's sinks: no SDPA has them


@dataclass(frozen=True)
class Bounds:
    """Where the packed sequences begin and end.

    Args:
        starts: Begin of each sequence, then the number of all tokens.
        cumulative: The same on the device, int32, shape (sequences + 1,).
        longest: Tokens of the longest sequence.
    """

    starts: tuple[int, ...]
    cumulative: torch.Tensor
    longest: int

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Begin and end of each sequence."""
        return list(zip(self.starts[:-1], self.starts[1:], strict=True))


def sequence_bounds(position_ids: torch.Tensor) -> Bounds:
    """Find the packed sequences; one begins wherever the position is 0.

    Args:
        position_ids: Shape (1, tokens), counted from 0 in each sequence.
    """
    tokens = position_ids.shape[-1]
    starts = ((position_ids[0] == 0).nonzero().flatten()).tolist()
    cumulative = torch.tensor([*starts, tokens], dtype=torch.int32, device=position_ids.device)
    lengths = [end - begin for begin, end in zip(starts, [*starts[1:], tokens], strict=True)]
    return Bounds((*starts, tokens), cumulative, max(lengths))


class _LastBounds:
    """The bounds of the micro-batch at hand: all layers ask for the same, and on a GPU asking waits for the device."""

    def __init__(self) -> None:
        self.of, self.version, self.bounds = None, -1, None

    def __call__(self, position_ids: torch.Tensor) -> Bounds:
        known = self.of() if self.of is not None else None
        if known is not position_ids or self.version != position_ids._version:
            self.bounds = sequence_bounds(position_ids)
            self.of, self.version = weakref.ref(position_ids), position_ids._version
        return self.bounds


_bounds_of = _LastBounds()
_all_positions = sequence_parallel.AllPositions()


@dataclass(frozen=True)
class _Layer:
    """What SDPA asks of a layer; the key-value heads of one that is shared may be repeated."""

    num_key_value_groups: int
    is_causal: bool


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

    With sequence parallel each GPU has a part of the tokens; here they are put together, and its heads are a part.

    Args:
        module: The attention layer.
        query: Shape (1, heads, tokens, head size); all sequences, one behind the other.
        key: Shape (1, key-value heads, tokens, head size).
        value: As ``key``; its head size may differ.
        attention_mask: None; padding is not possible here.
        position_ids: Shape (1, tokens).
        sliding_window: Tokens that a token sees, itself included; None: all before it.
        **kwargs: Of transformers' ``sdpa`` attention.

    Returns:
        Shape (1, tokens, heads, head size), and None for the weights.

    Raises:
        ValueError: If the batch is padded, its positions are not known, or the layer asks for what SDPA has not.
    """
    if attention_mask is not None or position_ids is None or query.shape[0] != 1:
        raise ValueError(
            f"attention {NAME}: needs sequences without padding in one row (use_remove_padding=true); for padded "
            "batches set ATTENTION=sdpa"
        )
    _refuse_what_it_lacks(module, kwargs)
    together = sequence_parallel.group()
    if together is None:
        return _attend(module, query, key, value, position_ids, sliding_window, kwargs), None
    query, key, value = sequence_parallel.tokens_for_heads(query, key, value, together)
    layer = _Layer(query.shape[1] // key.shape[1], getattr(module, "is_causal", True))
    out = _attend(layer, query, key, value, _all_positions(position_ids, together), sliding_window, kwargs)
    return sequence_parallel.heads_for_tokens(out, together), None


def _attend(
    module: torch.nn.Module | _Layer,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    position_ids: torch.Tensor,
    sliding_window: int | None,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    """Attention of whole sequences; shapes as in ``sdpa_varlen``."""
    bounds = _bounds_of(position_ids)
    if _kernel_takes(query, value, kwargs):
        return _flash(query, key, value, bounds, sliding_window, kwargs.get("scaling"))
    parts = []
    for begin, end in bounds.pairs:
        part = (tensor[:, :, begin:end] for tensor in (query, key, value))
        window = _window_mask(end - begin, sliding_window, query.device)
        parts.append(sdpa_attention_forward(module, *part, window, **kwargs)[0])
    return torch.cat(parts, dim=1)


def _refuse_what_it_lacks(module: torch.nn.Module, kwargs: dict[str, Any]) -> None:
    """Raise ValueError where sequences would silently see each other, or scores would differ."""
    lacks = [name for name in NOT_COMPUTED if kwargs.get(name) is not None]
    kinds = set(getattr(getattr(module, "config", None), "layer_types", None) or ())
    lacks += sorted(kinds - PACKED_LAYERS)  # layers that carry a state from one packed sequence into the next
    if lacks:
        raise ValueError(
            f"attention {NAME}: this model has {', '.join(lacks)}, which it cannot compute over packed sequences; set "
            "ATTENTION=flash_attention_2, or sdpa"
        )


def _kernel_takes(query: torch.Tensor, value: torch.Tensor, kwargs: dict[str, Any]) -> bool:
    half = query.dtype in (torch.bfloat16, torch.float16)
    heads = query.shape[-1] == value.shape[-1] <= LARGEST_HEAD and query.shape[-1] % 8 == 0
    return varlen_attn is not None and query.is_cuda and half and heads and not kwargs.get("dropout")


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: Bounds,
    sliding_window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """Torch's flash-attention over all sequences at once; shapes as in ``sdpa_varlen``."""
    # The kernel counts the tokens before this one, transformers' window counts this one too.
    window = (sliding_window - 1, 0) if sliding_window else (-1, 0)
    out = varlen_attn(
        *(tensor[0].transpose(0, 1) for tensor in (query, key, value)),
        bounds.cumulative,
        bounds.cumulative,
        bounds.longest,
        bounds.longest,
        scale=scaling,
        window_size=window,
        **GROUPED,
    )
    return out[None]


def _window_mask(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """What a token may see where the window is shorter than the sequence, shape (1, 1, length, length)."""
    if not sliding_window or sliding_window >= length:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return ((distance >= 0) & (distance < sliding_window))[None, None]


AttentionInterface.register(NAME, sdpa_varlen)
AttentionMaskInterface.register(NAME, flash_attention_mask)
