"""The tokens that end an answer, read in one place for the rollout, the reward server and the evaluation."""

from __future__ import annotations

from typing import Any


def end_ids(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """Token ids that end an answer: those of the generation config and the tokenizer's own."""
    ids: set[int] = set()
    for source in (generation_config, tokenizer):
        found = getattr(source, "eos_token_id", None)
        if found is not None:
            ids.update([found] if isinstance(found, int) else found)
    return frozenset(ids)
