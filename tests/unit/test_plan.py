"""The plan: weights exact from the config alone, bytes as an engine holds them, and what is known to fit fits."""

from dataclasses import replace

import pytest

from common.plan.advice import numbers_to_try
from common.plan.fit import choose, judge, parallel_sizes, ways_out
from common.plan.machine import parse_gpus
from common.plan.memory import Setup, kv_per_token, memory_of, states
from common.plan.traffic import Step, passes, traffic, waiting
from common.plan.weights import read_weights
from tests.published_models import MODELS, PUBLISHED_LEAST, PUBLISHED_RUNS

ENGINES = ("fsdp2", "fsdp")


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


# ---- memory --------------------------------------------------------------------------------------------------------


def published(row):
    name, gpus, rank, offload, parallel, share, tokens, sequence = row
    return Setup(
        read_weights(MODELS[name][0]),
        parse_gpus(gpus),
        tokens,
        sequence,
        offload=offload,
        tensor_parallel=parallel,
        utilization=share,
        lora_rank=rank,
        reference=not rank,
    )


def test_published_runs_fit_in_the_plan():
    """verl published them as running; 9 of 10 must fit (the one that may not: 32k tokens of a 150k vocabulary)."""
    verdicts = {f"{row[0]} on {row[1]}, rank {row[2]}": judge(published(row)).fits for row in PUBLISHED_RUNS}
    fitting = [name for name, verdict in verdicts.items() if verdict != "no"]
    assert len(fitting) / len(verdicts) >= 0.9, verdicts


@pytest.mark.parametrize(("name", "gpus"), PUBLISHED_LEAST)
def test_half_of_the_least_that_was_published_does_not_fit(name, gpus):
    """The least with verl's `param_offload`; the kit's `full` keeps all states on the host and needs less."""
    setup = Setup(read_weights(MODELS[name][0]), parse_gpus(gpus), 0, 2048, offload="true", reference=True)
    assert choose(setup, frozenset({"offload"})).fits == "no"


def test_states_of_a_7b_model_by_hand():
    model = read_weights(MODELS["Qwen2.5-7B"][0])
    one = states(model, 0, 1)
    assert (one["weights"], one["gradients"], one["optimizer"]) == tuple(7_615_616_512 * size for size in (4, 4, 8))
    # 8 ranks: every matrix of this model has rows in a multiple of 8, so each holds an eighth
    assert states(model, 0, 8)["optimizer"] == 7_615_616_512
    lora = states(model, 16, 1)
    assert lora["weights"] == 4 * (7_615_616_512 + 40_370_176) and lora["optimizer"] == 8 * 40_370_176


def test_keys_and_values_by_hand():
    model = read_weights(MODELS["Qwen2.5-7B"][0])  # 28 layers, 4 heads of 128, keys and values, 2 bytes: 57,344
    assert kv_per_token(model, 1) == 57_344 and kv_per_token(model, 4) == kv_per_token(model, 8) == 14_336


@pytest.mark.parametrize("offload", ["false", "true", "full"])
def test_offloading_frees_the_phases_that_it_frees(offload):
    setup = Setup(read_weights(MODELS["Qwen2.5-7B"][0]), parse_gpus("8x80GB"), 4096, 2048, offload=offload)
    memory, size = memory_of(setup), 7_615_616_512
    assert sum(memory.training[name] for name in ("weights", "gradients", "optimizer")) == (
        0 if offload == "full" else 16 * size / 8
    )
    assert memory.generating["trainer"] == (12 * size / 8 if offload == "false" else 0)
    assert memory.host.get("offloaded", 0) == {"false": 0, "true": 12 * size, "full": 16 * size}[offload]


def test_states_stay_on_the_host_only_where_the_engine_can_leave_them_there():
    setup = Setup(read_weights(MODELS["Qwen2.5-7B"][0]), parse_gpus("1x80GB"), 0, 2048, rollout=False)
    assert choose(setup).setup.offload == "full" and choose(setup).fits == "yes"
    fit = choose(replace(setup, keeps_away=False))
    assert fit.setup.offload == "false" and fit.fits == "no"  # 16 bytes x 7.6e9 weights are 113 GiB
    knobs = {"OFFLOAD": "false", "LORA_RANK": "8"}
    tries = {
        engine: numbers_to_try("The GPU ran out of memory", knobs | {"TRAIN_ENGINE": engine}) for engine in ENGINES
    }
    assert tries == {"fsdp2": ["OFFLOAD=full (now false)"], "fsdp": []}


def test_a_model_that_fits_nowhere_is_told_what_would():
    fit = choose(Setup(read_weights(MODELS["Qwen2.5-32B"][0]), parse_gpus("1x24GB"), 0, 2048, rollout=True))
    assert fit.fits == "no" and any("GPUs" in way for way in ways_out(fit))


def test_tensor_parallel_sizes_divide_gpus_and_heads():
    setup = Setup(read_weights(MODELS["Qwen2.5-7B"][0]), parse_gpus("8x80GB"), 0, 2048)  # 28 heads
    assert parallel_sizes(setup) == [1, 2, 4]


@pytest.mark.parametrize("text", ["8", "80GB", "0x80GB", "8x", "8x80GBx2", "-1x80GB", "9999x80GB"])
def test_machines_that_cannot_be_read(text):
    with pytest.raises(ValueError, match=f"--gpus {text}"):
        parse_gpus(text)


def test_machines_that_can():
    one, two = parse_gpus("8x80GB"), parse_gpus("2x8x80g")
    assert (one.count, one.nodes, two.count, two.nodes) == (8, 1, 16, 2)
    assert 78 < one.memory / 2**30 < 80 and one.card[0].startswith("A100")


def test_the_cache_of_a_small_model_is_no_larger_than_its_answers_can_fill():
    # 24 layers, 2 heads of 64: 12,288 bytes a token; 16 answers of 2,048 tokens twice: 0.75 GiB, 0.92 of weights
    setup = Setup(read_weights(MODELS["Qwen2.5-0.5B"][0]), parse_gpus("1x80GB"), 0, 2048, answers=16)
    fit = choose(setup)
    assert fit.setup.utilization == 0.15  # the least that is tried: 11.9 GiB
    assert fit.memory.kv_tokens > 2 * 16 * 2048
    many = choose(replace(setup, answers=4096))  # 96 GiB of cache would be of use
    assert many.setup.utilization == 0.7


def test_a_reward_model_on_the_same_gpus_is_a_phase_of_its_own():
    setup = Setup(read_weights(MODELS["Qwen2.5-7B"][0]), parse_gpus("8x80GB"), 4096, 2048)
    alone, served = memory_of(setup), memory_of(replace(setup, reward_share=0.3))
    assert not alone.scoring
    assert served.scoring["reward model"] == 0.3 * setup.gpus.memory
    assert served.training["engine asleep"] == 2 * alone.training["engine asleep"]
    assert sum(served.scoring.values()) <= served.peak


# ---- over machines -------------------------------------------------------------------------------------------------


def test_traffic_of_a_step_by_hand():
    """7,615,616,512 weights on 16 GPUs: 15/16 of each gather come over the network or from a neighbour in the ring."""
    setup = Setup(read_weights(MODELS["Qwen2.5-7B"][0]), parse_gpus("2x8x80GB"), 16384, 3072, reference=True)
    step = Step(rows=1024, answers=8, tokens=2048, updates=4)  # 16,777,216 tokens, 1,048,576 a GPU: 64 passes of 16,384
    fit, weights = judge(setup), 7_615_616_512 * 15 / 16
    assert passes(fit, step) == 64
    assert traffic(fit, step) == {
        "training": 64 * (2 + 2 + 4) * weights,  # gathered twice in bfloat16, gradients summed in float32
        "log-probabilities": 2 * 64 * 2 * weights,  # its own and the reference's
        "new weights": 4 * weights,
    }
    seconds = {"training": 1e9, "log-probabilities": 0.0}  # hidden behind much work; nothing to hide behind
    assert waiting(fit, step, seconds) == pytest.approx((2 * 64 * 2 + 4) * weights / (100e9 / 8 * 0.8))


def test_a_gpu_makes_a_pass_for_each_update_however_few_tokens_it_has():
    setup = Setup(read_weights(MODELS["Qwen2.5-7B"][0]), parse_gpus("16x8x80GB"), 16384, 3072)
    assert passes(judge(setup), Step(rows=128, answers=1, tokens=512, updates=8)) == 8


def test_one_machine_sends_nothing_and_lora_sums_its_adapter_alone():
    model = read_weights(MODELS["Qwen2.5-7B"][0])
    step = Step(64, 1, 1024)
    assert traffic(judge(Setup(model, parse_gpus("8x80GB"), 16384, 2048)), step) == {}
    lora = Setup(model, parse_gpus("4x8x80GB"), 16384, 2048, rollout=False, lora_rank=16)
    adapter = sum(weight.numbers for weight in model.adapter(16))
    assert traffic(judge(lora), step) == {"training": 31 / 32 * (4 * 7_615_616_512 + 4 * adapter)}


def test_the_network_is_read_and_a_faster_one_is_waited_for_less():
    assert parse_gpus("2x8x80GB").network == 100 and parse_gpus("2x8x80GB@400").network == 400
    assert parse_gpus("2x8x80GB@3200Gb").network == 3200
    with pytest.raises(ValueError, match="above 0"):
        parse_gpus("2x8x80GB@0")
    setup = Setup(read_weights(MODELS["Qwen2.5-7B"][0]), parse_gpus("2x8x80GB@400"), 16384, 3072)
    slow = replace(setup, gpus=parse_gpus("2x8x80GB"))
    step = Step(128, 8, 1024)
    assert waiting(judge(slow), step, {}) == pytest.approx(4 * waiting(judge(setup), step, {}))
