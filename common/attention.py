"""Which attention computes a model as it was trained; read from its config alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SDPA = ("sdpa", "sdpa_varlen")
PADDED = ("sdpa", "eager")  # cannot tell packed sequences apart
CAPPED = {"gemma2": 50.0, "vaultgemma": 50.0}  # what transformers takes where config.json leaves the cap out
SINKS = ("gpt_oss",)


def beyond_sdpa(config: Mapping[str, Any]) -> str:
    """What torch's SDPA does not compute of a model's attention, in words; empty when it computes all of it.

    transformers passes the cap of Gemma 2 on to SDPA, which ignores it: the model computes, but is another one.

    Args:
        config: A ``config.json``, or what ``to_dict`` of a config gives.
    """
    text = config.get("text_config") or config
    kind = text.get("model_type", "")
    cap = text.get("attn_logit_softcapping", CAPPED.get(kind))
    if cap is not None:
        return f"a {kind} caps its attention scores (attn_logit_softcapping={cap:g})"
    return f"a {kind} has attention sinks" if kind in SINKS else ""


def exact_attention(config: Mapping[str, Any]) -> str | None:
    """The ``attn_implementation`` for a model on its own: None leaves the choice to transformers."""
    return "eager" if beyond_sdpa(config) else None
