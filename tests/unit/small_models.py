"""Configs of small models by family, for tests that compare two ways to compute the same."""

from __future__ import annotations

from typing import Any

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES |= {"num_hidden_layers": 2, "vocab_size": 90, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
HEAD = {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_local_experts": 4}
OTHERS = {
    "gemma": HEAD,
    "gemma2": HEAD,
    "gemma3_text": {**HEAD, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "glm": HEAD,
    "glm4": HEAD,
    "glm4_moe": {**EXPERTS, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    "granitemoe": EXPERTS,
    "helium": HEAD,
    "hunyuan_v1_dense": HEAD,
    "mixtral": EXPERTS,
    "olmoe": EXPERTS,
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**EXPERTS, **HEAD},
    "seed_oss": {"residual_dropout": 0.0, "attention_dropout": 0.0},
}


def small_config(family: str) -> dict[str, Any]:
    """Arguments of ``AutoConfig.for_model``."""
    return {"model_type": family, **SIZES, **OTHERS.get(family, {})}
