"""Small random models of many architectures with the demo's tokenizer, and what they compute, worked out plainly.

The sizes let a wrong computation show: weights larger than usual, so that attention looks at single tokens; windows
shorter than a sentence; caps on scores that bind; more experts than are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from common.demo_model import DEMO_MODEL_DIR

WINDOW = {"sliding_window": 8}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32}
SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.1,
}
# Model type -> what its config has in addition to the sizes.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": WINDOW,
    "gemma2": {**MIXED, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 32},
    "gemma3_text": {**MIXED, "query_pre_attn_scalar": 32},
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
    "qwen3_moe": {**EXPERTS, "num_experts": 6},
    "phi3": {},
    "glm4": {},
    "olmo2": {},
    "granite": {"embedding_multiplier": 2.0, "logits_scaling": 3.0, "residual_multiplier": 0.7},
    "deepseek_v3": {
        **EXPERTS,
        **LATENT,
        **{"n_routed_experts": 6, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4},
    },
    "mixtral": {"num_experts_per_tok": 2, "num_local_experts": 6},
}
# Computed in the tests' own process only, not run: sinks, a third kind of window.
OTHERS: dict[str, dict[str, Any]] = {
    "gpt_oss": {**MIXED, "num_experts_per_tok": 2, "num_local_experts": 6},
    "cohere2": MIXED,
    "olmo3": MIXED,
}
OWN_HEAD_SIZE = ("mistral", "gemma2", "gemma3_text", "qwen3", "qwen3_moe", "glm4", "gpt_oss")  # 128 / 4 in all others


def tiny_config(kind: str) -> Any:
    """The config of one architecture."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    settings = SIZES | ({"head_dim": 32} if kind in OWN_HEAD_SIZE else {}) | (ARCHITECTURES | OTHERS)[kind]
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return AutoConfig.for_model(kind, **settings, **ends)


def write_tiny_model(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write a random model of one architecture in float32, with tokenizer and chat template."""
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(tiny_config(kind), dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO_MODEL_DIR).save_pretrained(folder)
    return folder


def plain_model(folder: Path) -> Any:
    """A model in float64, with transformers' attention and experts written out in plain torch."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    model.set_experts_implementation("eager")
    return model


@torch.no_grad()
def plain_log_probs(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Log-probability of each token but the first, of one sequence on its own, shape (tokens - 1,)."""
    row = torch.tensor([list(ids)])
    logits = model(input_ids=row, use_cache=False).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(-1, row[0, 1:, None])[:, 0]


@torch.no_grad()
def plain_greedy(model: Any, ids: Sequence[int], longest: int, stop: int) -> list[int]:
    """The most likely answer to a prompt, each token by a whole forward pass."""
    row = list(ids)
    while len(row) < len(ids) + longest and (len(row) == len(ids) or row[-1] != stop):
        row.append(int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    return row[len(ids) :]
