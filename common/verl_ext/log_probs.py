"""Without flash-attn, log-probabilities of a packed batch are taken in chunks of tokens, not token by token.

Target: `logprobs_from_logits_v2`, verl/utils/torch_functional.py:173.

verl's loop over the tokens is half of the time of a training step. Chunks give the same numbers, and bfloat16 logits,
which are what a GPU has, get float32 inside a chunk (``tests/gpu/test_kernels.py`` has errors and times).

Upstream: https://github.com/verl-project/verl/pull/3852 (open) puts a compiled function in its place.

Until: verl takes more than one row at a time there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

CHUNK_NUMBERS = 2**24  # logits in one call of logsumexp: bounds its temporary memory, as verl's loop does


def replacement(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Chunks of rows in place of single rows."""

    def log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return chunked_log_probs(logits, labels)

    return log_probs


def chunked_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probability of each label: its logit less logsumexp of its row.

    Args:
        logits: Shape (..., vocabulary); any floating type.
        labels: Shape (...), int64.

    Returns:
        Shape (...); float64 for float64 logits, else float32.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    rows = max(1, CHUNK_NUMBERS // flat.shape[-1])
    return ChunkedLogProbs.apply(flat, labels.reshape(-1), rows).view(labels.shape)


class ChunkedLogProbs(torch.autograd.Function):
    """Log-probabilities in chunks of rows; the logits and one number a row are kept for the backward pass.

    autograd's own way through ``logsumexp`` keeps float32 copies of bfloat16 logits, three times their memory.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, rows: int) -> torch.Tensor:
        """Logits (rows, vocabulary), labels (rows,), rows of a chunk; returns (rows,)."""
        sums = torch.cat([exact(chunk).logsumexp(-1) for chunk in logits.split(rows)])
        picked = exact(logits.gather(-1, labels[:, None]).squeeze(-1))
        ctx.save_for_backward(logits, labels, sums)
        ctx.rows = rows
        return picked - sums

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Of a label's own logit 1 - p, of each other one -p, times the gradient of its row."""
        logits, labels, sums = ctx.saved_tensors
        out = torch.empty_like(logits)
        parts = (tensor.split(ctx.rows) for tensor in (logits, labels, sums, gradient, out))
        for logit, label, total, grad, target in zip(*parts, strict=True):
            part = (exact(logit) - total[:, None]).exp_().mul_(-grad[:, None])
            target.copy_(part.scatter_add_(-1, label[:, None], grad[:, None].to(part.dtype)))
        return out, None, None


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64 if it is that, else in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
