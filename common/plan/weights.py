"""Every weight of a model, from its config.json alone.

The common decoder families are written out, so that no library is loaded and no weight is made; another architecture is
asked of transformers on torch's meta device, which holds shapes and no numbers. Both give the same names and shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

QKV_BIAS = ("qwen2", "qwen2_moe")  # always; others as attention_bias says
DENSE = ("llama", "mistral", "qwen2", "qwen3")
SPARSE = ("qwen2_moe", "qwen3_moe", "mixtral")


@dataclass(frozen=True)
class Weight:
    """One kind of weight.

    Args:
        name: As transformers names it, with ``*`` for the number of the layer.
        shape: Of one.
        times: In how many layers.
        linear: Whether it belongs to a linear layer, which LoRA adapts (``all-linear``).
    """

    name: str
    shape: tuple[int, ...]
    times: int = 1
    linear: bool = False

    @property
    def numbers(self) -> int:
        """How many numbers all of them have."""
        return math.prod(self.shape) * self.times

    def on_rank_0(self, shards: int) -> int:
        """Numbers that the first of some FSDP2 ranks holds: rows are dealt out in equal chunks, the last is short."""
        return math.ceil(self.shape[0] / shards) * math.prod(self.shape[1:]) * self.times


@dataclass(frozen=True)
class Model:
    """The shape of a language model.

    Args:
        weights: All of them; one that is tied counts once.
        layers: Decoder layers.
        hidden: Width.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        intermediate: Width of the feed-forward part that one token passes (of its experts together).
        vocabulary: Tokens.
        tied: Whether the head is the embedding.
        inactive: Numbers in experts that a token does not pass.
    """

    weights: tuple[Weight, ...]
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    inactive: int = 0

    @cached_property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.numbers for weight in self.weights)

    @property
    def active(self) -> int:
        """Number of weights that one token passes; all of them in a dense model."""
        return self.parameters - self.inactive

    @property
    def outer_weights(self) -> tuple[Weight, ...]:
        """Those outside the decoder layers: embedding, final norm, head."""
        return tuple(weight for weight in self.weights if weight.times == 1 and "layers." not in weight.name)

    @cached_property
    def outside(self) -> int:
        """Numbers outside the decoder layers."""
        return sum(weight.numbers for weight in self.outer_weights)

    @property
    def layer(self) -> int:
        """Numbers in one decoder layer, the mean where they differ."""
        return (self.parameters - self.outside) // max(1, self.layers)

    def adapter(self, rank: int) -> tuple[Weight, ...]:
        """LoRA of all linear layers but the head: A of (rank, inputs) and B of (outputs, rank) for each.

        PEFT gives every expert of a mixture its own pair, of twice the rank where two layers are stored as one.
        """
        found = []
        for weight in self.weights if rank else ():
            width = rank
            if len(weight.shape) == 3 and ".experts." in weight.name:
                width *= weight.shape[0] * (2 if "gate_up" in weight.name else 1)
            elif not weight.linear:
                continue
            outputs, inputs = weight.shape[-2:]
            found.append(Weight(f"{weight.name}.lora_A", (width, inputs), weight.times))
            found.append(Weight(f"{weight.name}.lora_B", (outputs, width), weight.times))
        return tuple(found)


def read_weights(config: Mapping[str, Any]) -> Model:
    """Every weight of the model that a config.json describes.

    Args:
        config: The content of config.json; of a vision model the text part counts.

    Raises:
        ValueError: If transformers does not know the architecture either, or a field is missing.
    """
    kind = config.get("model_type", "")
    if kind not in DENSE + SPARSE:
        return _ask_transformers(config)
    try:
        return _decoder(config, kind)
    except KeyError as error:
        raise ValueError(f"config.json: the field {error} is missing, which a {kind} model has") from error


def _decoder(config: Mapping[str, Any], kind: str) -> Model:
    hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    vocabulary, tied = config["vocab_size"], bool(config.get("tie_word_embeddings", False))
    sparse = [index for index in range(layers) if kind in SPARSE and _is_sparse(config, index)]
    dense = layers - len(sparse)
    weights = [Weight("embed_tokens", (vocabulary, hidden)), Weight("norm", (hidden,))]
    weights += [] if tied else [Weight("lm_head", (vocabulary, hidden))]
    weights += [
        Weight(f"layers.*.{name}", (hidden,), layers) for name in ("input_layernorm", "post_attention_layernorm")
    ]
    weights += _attention(config, kind, hidden, heads, kv_heads, head_dim, layers)
    if dense:
        bias = bool(config.get("mlp_bias")) and kind == "llama"
        weights += _feed_forward("mlp", hidden, config["intermediate_size"], dense, bias)
    intermediate, inactive = config.get("intermediate_size", 0), 0
    if sparse:
        experts, width = _experts(config), config.get("moe_intermediate_size") or config["intermediate_size"]
        chosen = config.get("num_experts_per_tok", 2)
        weights += [
            Weight("layers.*.mlp.gate", (experts, hidden), len(sparse), linear=True),
            Weight("layers.*.mlp.experts.gate_up_proj", (experts, 2 * width, hidden), len(sparse)),
            Weight("layers.*.mlp.experts.down_proj", (experts, hidden, width), len(sparse)),
        ]
        inactive = (experts - chosen) * 3 * width * hidden * len(sparse)
        intermediate = chosen * width
        if kind == "qwen2_moe":
            shared = config["shared_expert_intermediate_size"]
            weights += _feed_forward("mlp.shared_expert", hidden, shared, len(sparse), False)
            weights.append(Weight("layers.*.mlp.shared_expert_gate", (1, hidden), len(sparse), linear=True))
            intermediate += shared
    return Model(tuple(weights), layers, hidden, heads, kv_heads, head_dim, intermediate, vocabulary, tied, inactive)


def _is_sparse(config: Mapping[str, Any], index: int) -> bool:
    step = config.get("decoder_sparse_step") or 1
    return index not in (config.get("mlp_only_layers") or ()) and _experts(config) > 0 and (index + 1) % step == 0


def _experts(config: Mapping[str, Any]) -> int:
    return config.get("num_experts") or config.get("num_local_experts") or 0


def _attention(config, kind, hidden, heads, kv_heads, head_dim, layers) -> list[Weight]:
    bias = bool(config.get("attention_bias")) and kind not in ("mistral", "mixtral")
    wide, narrow = heads * head_dim, kv_heads * head_dim
    found = []
    for name, outputs, inputs in (
        ("q", wide, hidden),
        ("k", narrow, hidden),
        ("v", narrow, hidden),
        ("o", hidden, wide),
    ):
        found.append(Weight(f"layers.*.self_attn.{name}_proj", (outputs, inputs), layers, linear=True))
        has_bias = name != "o" and kind in QKV_BIAS or bias and kind not in QKV_BIAS
        found += [Weight(f"layers.*.self_attn.{name}_proj.bias", (outputs,), layers)] if has_bias else []
    if kind.startswith("qwen3"):
        found += [Weight(f"layers.*.self_attn.{name}_norm", (head_dim,), layers) for name in "qk"]
    return found


def _feed_forward(name: str, hidden: int, width: int, times: int, bias: bool) -> list[Weight]:
    shapes = {"gate_proj": (width, hidden), "up_proj": (width, hidden), "down_proj": (hidden, width)}
    found = [Weight(f"layers.*.{name}.{part}", shape, times, linear=True) for part, shape in shapes.items()]
    if bias:
        found += [Weight(f"layers.*.{name}.{part}.bias", shape[:1], times) for part, shape in shapes.items()]
    return found


def _ask_transformers(config: Mapping[str, Any]) -> Model:
    """Make the model on the meta device and read its shapes."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

        settings = AutoConfig.for_model(**dict(config))
        kind = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
        with torch.device("meta"):
            model = kind.from_config(settings, trust_remote_code=False)
    except (ValueError, KeyError, AttributeError, ImportError, TypeError) as error:
        kind = config.get("model_type")
        raise ValueError(f"model_type={kind}: its size cannot be told from config.json ({error})") from error
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    weights = tuple(
        Weight(name, tuple(parameter.shape), 1, name.removesuffix(".weight") in linear and "lm_head" not in name)
        for name, parameter in model.named_parameters()
        if parameter.dim()
    )
    text = settings.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    experts, chosen = (getattr(text, name, 0) or 0 for name in ("num_experts", "num_experts_per_tok"))
    inside = sum(weight.numbers for weight in weights if ".experts." in weight.name)
    return Model(
        weights,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        tied=bool(getattr(settings, "tie_word_embeddings", False)),
        inactive=inside * (experts - chosen) // experts if experts else 0,
    )
