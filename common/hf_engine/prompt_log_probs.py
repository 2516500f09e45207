"""Log-probabilities of the tokens of a prompt: what a teacher is asked for in distillation (``prompt_logprobs``).

The answer has the form of verl's vLLM server (`extract_prompt_logprobs`): at each place the next token, or the k most
likely ones, with their log-probabilities under the raw logits; the last place, which has no next token, holds zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from common.hf_engine.generation import Request, pad_left

LOGITS = 1 << 27  # numbers of one forward pass, 512 MiB in float32


@torch.inference_mode()
def score_prompts(model: torch.nn.Module, requests: Sequence[Request], pad_token_id: int) -> None:
    """Fill ``prompt_scores`` of each request; nothing is generated.

    Args:
        model: A causal language model of transformers in eval mode.
        requests: Those with ``params.prompt_logprobs``.
        pad_token_id: Fills the left of shorter prompts; masked.
    """
    vocabulary = model.config.get_text_config().vocab_size
    waiting = sorted((one for one in requests if one.running), key=lambda one: len(one.prompt_ids))
    while waiting:
        rows = [waiting.pop()]  # the longest first, so that it sets the width
        width = len(rows[0].prompt_ids)
        while waiting and (len(rows) + 1) * width * vocabulary <= LOGITS:
            rows.append(waiting.pop())
        _score(model, rows, pad_token_id)


def _score(model: torch.nn.Module, rows: list[Request], pad_token_id: int) -> None:
    device = next(model.parameters()).device
    input_ids, attention_mask = pad_left([row.prompt_ids for row in rows], pad_token_id, device)
    position_ids = (attention_mask.cumsum(-1) - 1).clamp_min(0)
    logits = model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
    ).logits
    for row, row_logits in zip(rows, logits, strict=True):
        length = len(row.prompt_ids)
        log_probs = torch.log_softmax(row_logits[-length:-1].float(), dim=-1)  # (length - 1, V)
        row.prompt_scores = prompt_scores(log_probs, row.prompt_ids, row.params.prompt_logprobs or 0)
        row.finished = True


def prompt_scores(log_probs: torch.Tensor, prompt_ids: list[int], top: int) -> dict[str, Any]:
    """The answer for one prompt.

    Args:
        log_probs: Of each place but the last over the next token, shape (tokens - 1, V).
        prompt_ids: The prompt.
        top: 0 for the next token alone, else so many most likely tokens of each place.

    Returns:
        ``prompt_ids`` and ``prompt_logprobs``, lists of shape (tokens, max(top, 1)).
    """
    if top:
        values, ids = log_probs.topk(top, dim=-1)
    else:
        ids = torch.tensor(prompt_ids[1:], device=log_probs.device, dtype=torch.int64)[:, None]
        values = log_probs.gather(-1, ids)
    width = max(top, 1)
    return {"prompt_ids": ids.tolist() + [[0] * width], "prompt_logprobs": values.tolist() + [[0.0] * width]}
