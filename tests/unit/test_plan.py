"""The plan: weights exact from the config alone, bytes as an engine holds them, and what is known to fit fits."""

import pytest

from common.plan.weights import read_weights
from tests.published_models import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_number_of_weights_is_the_published_one(name):
    config, published = MODELS[name]
    assert read_weights(config).parameters == published


def shapes_in_transformers(config):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


OTHERS = {
    "llama": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "head_dim": 48},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "model_type": "qwen2_moe",
        "num_experts": 6,
        "moe_intermediate_size": 96,
        "shared_expert_intermediate_size": 160,
        "mlp_only_layers": [1],
    },
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": 6, "moe_intermediate_size": 96, "decoder_sparse_step": 2},
    "gemma2": {"model_type": "gemma2", "head_dim": 32},  # not written out, so transformers is asked
}
SMALL = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_number_of_weights_is_that_of_transformers(name, tied):
    config = SMALL | OTHERS[name] | {"tie_word_embeddings": tied}
    model = shapes_in_transformers(config)
    assert read_weights(config).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["Qwen2.5-0.5B", "Qwen3-0.6B", "llama", "qwen3_moe", "mixtral", "gemma2"])
def test_adapter_is_as_large_as_that_of_peft(name):
    from peft import LoraConfig, get_peft_model

    config = MODELS[name][0] if name in MODELS else SMALL | OTHERS[name] | {"decoder_sparse_step": 1}
    peft = get_peft_model(shapes_in_transformers(config), LoraConfig(r=8, target_modules="all-linear"))
    trained = sum(parameter.numel() for parameter in peft.parameters() if parameter.requires_grad)
    assert sum(weight.numbers for weight in read_weights(config).adapter(8)) == trained


def test_a_model_that_nobody_knows_and_a_missing_field_are_named():
    with pytest.raises(ValueError, match="model_type=alien"):
        read_weights({"model_type": "alien"})
    with pytest.raises(ValueError, match="'hidden_size' is missing"):
        read_weights({"model_type": "qwen2"})
