"""Tokens of a text whose learnt parts are known, and which of them are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.data.turns import RenderError

Spans = Sequence[tuple[int, int]]


def token_mask(offsets: Sequence[tuple[int, int]], spans: Spans) -> list[int]:
    """1 for each token that holds a character of a span, else 0.

    Args:
        offsets: Start and end of each token in the text.
        spans: In rising order.
    """
    mask, at = [], 0
    for start, end in offsets:
        while at < len(spans) and spans[at][1] <= start:
            at += 1
        mask.append(int(at < len(spans) and end > spans[at][0] and end > start))
    return mask


def tokenized(tokenizer: Any, text: str, spans: Spans) -> tuple[list[int], list[int]]:
    """Ids of a text and its loss mask (1: learnt), both of the shape (tokens,).

    Args:
        tokenizer: Of the model, called as a Hugging Face one is.
        text: The whole conversation.
        spans: Start and end in ``text`` of what is learnt, in rising order.

    Raises:
        RenderError: If the tokenizer cannot say which characters a token covers.
    """
    if not getattr(tokenizer, "is_fast", False):
        return _by_pieces(tokenizer, text, spans)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(found["input_ids"]), token_mask(found["offset_mapping"], spans)


def _by_pieces(tokenizer: Any, text: str, spans: Spans) -> tuple[list[int], list[int]]:
    ids, mask, at = [], [], 0
    for start, end in [*spans, (len(text), len(text))]:
        for part, learnt in ((text[at:start], 0), (text[start:end], 1)):
            piece = tokenizer(part, add_special_tokens=False)["input_ids"] if part else []
            ids += piece
            mask += [learnt] * len(piece)
        at = end
    if ids != tokenizer(text, add_special_tokens=False)["input_ids"]:
        raise RenderError("the tokenizer is a slow one, without offsets, and splits the answers otherwise; convert it")
    return ids, mask
