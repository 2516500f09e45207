"""The attention that the kit chooses for each architecture, in training and while answering, against plain float64."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.utils import transformers_weight_conversion as conversion
from transformers import AutoModelForCausalLM, Gemma2Config
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from verl.workers.config import HFModelConfig, RolloutConfig

import common.hf_engine.varlen_attention  # noqa: F401  (registers sdpa_varlen)
from benchmarks.architectures import LORA_TARGETS, problems, table
from common.attention import PADDED, beyond_sdpa
from common.evaluation.engines.transformers_engine import load
from common.evaluation.model_path import ModelSource
from common.hf_engine.generation import Request, generate
from common.hf_engine.sampling import SamplingParams
from common.hf_engine.server import HFServer
from common.preflight.auto import resolve_attention
from common.preflight.data_checks import two_ropes
from common.preflight.extensions import BIASED_ROUTERS, check_targets
from common.preflight.knobs import read_knobs
from common.preflight.model import read_model
from tests.architecture_figures import ALPHA, RANK, trained_weights
from tests.tiny_models import ARCHITECTURES, OTHERS, plain_log_probs, plain_model, tiny_config, write_tiny_model

LENGTHS = (5, 17, 2, 29)  # some longer than the sliding window of 8
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    folders = {}

    def make(kind):
        if kind not in folders:
            folders[kind] = write_tiny_model(kind, tmp_path_factory.mktemp(kind))
        return folders[kind]

    return make


def chosen_attention(folder):
    knobs = read_knobs("sft", {"DEVICE": "cpu"})
    resolve_attention(knobs, read_model(str(folder)))
    return knobs["ATTENTION"]


def trainer_log_probs(model, sequences, attention):
    """Log-probabilities of all tokens but the first of each sequence, computed as one micro-batch of verl's engine."""
    lengths = [len(one) for one in sequences]
    if attention in PADDED:
        ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in sequences], batch_first=True)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask.bool()]
    else:
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        logits = model(input_ids=torch.cat(sequences)[None], position_ids=positions, use_cache=False).logits[0]
    parts = zip(logits.log_softmax(-1).split(lengths), sequences, strict=True)
    return torch.cat([part[:-1].gather(-1, ids[1:, None])[:, 0] for part, ids in parts])


@pytest.mark.parametrize("kind", [*ARCHITECTURES, *OTHERS])
def test_a_micro_batch_of_the_trainer_gives_the_plain_numbers_and_gradients(folder_of, kind):
    folder, sequences = folder_of(kind), [torch.randint(3, 512, (length,)) for length in LENGTHS]
    plain = plain_model(folder)
    expected = torch.cat([plain_log_probs(plain, one.tolist()) for one in sequences])
    attention = chosen_attention(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()
    found = trainer_log_probs(model, sequences, attention)
    torch.testing.assert_close(found.double(), expected, **CLOSE)
    found.sum().backward()
    for one in sequences:
        logits = plain(input_ids=one[None], use_cache=False).logits[0, :-1].log_softmax(-1)
        logits.gather(-1, one[1:, None]).sum().backward()
    theirs = dict(plain.named_parameters())
    for name, weight in model.named_parameters():
        if weight.grad is not None or theirs[name].grad is not None:  # the bias that routes has none
            error = (weight.grad - theirs[name].grad).abs().max() / theirs[name].grad.abs().max().clamp_min(1e-9)
            assert error < 1e-3, name


@pytest.mark.parametrize("load_format", ["auto", "dummy"])
@pytest.mark.parametrize("kind", [*ARCHITECTURES, *OTHERS])
def test_the_rollout_server_answers_with_plain_log_probabilities(folder_of, kind, load_format):
    folder = folder_of(kind)
    settings = RolloutConfig(name="hf", prompt_length=64, response_length=16, load_format=load_format, seed=3)
    trained = {"attn_implementation": chosen_attention(folder)}
    server = HFServer(settings, HFModelConfig(path=str(folder), override_config=trained), 0, "cpu", 1)
    plain = plain_model(folder)
    if load_format == "dummy":
        server.model.load_state_dict(plain.state_dict())
    prompts = [torch.randint(3, 512, (length,)).tolist() for length in LENGTHS]
    lengths = (4, 12, 7, 12)  # finished rows leave the batch, and its cache
    requests = [Request(ids, SamplingParams(), n, frozenset()) for ids, n in zip(prompts, lengths, strict=True)]
    generate(server.model, requests, 0, torch.Generator().manual_seed(1))
    for prompt, request in zip(prompts, requests, strict=True):
        expected = plain_log_probs(plain, prompt + request.token_ids)[len(prompt) - 1 :]
        torch.testing.assert_close(torch.tensor(request.log_probs).double(), expected, **CLOSE)


def test_gemma_2_is_evaluated_with_its_capped_scores(folder_of):
    folder, ids = folder_of("gemma2"), torch.randint(3, 512, (20,)).tolist()
    model = load(ModelSource(str(folder), "x", str(folder)), "cpu", "float32", trust_remote_code=False)
    torch.testing.assert_close(plain_log_probs(model, ids), plain_log_probs(plain_model(folder), ids), **CLOSE)


def test_the_cap_that_config_json_leaves_out_is_that_of_transformers():
    config = tiny_config("gemma2").to_dict()
    del config["attn_logit_softcapping"]
    assert Gemma2Config(**config).attn_logit_softcapping == 50 and "=50)" in beyond_sdpa(config)
    assert beyond_sdpa(config | {"attn_logit_softcapping": None}) == ""
    assert beyond_sdpa({"model_type": "some_vl", "text_config": config})


def test_an_adapter_on_experts_is_added_by_hand_as_peft_merges_it(tmp_path):
    """What the matrix compares merged weights with: the shard that a trainer writes, base plus alpha / r x B A."""
    model = AutoModelForCausalLM.from_config(tiny_config("qwen3_moe"), dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"))
    for name, weight in peft.named_parameters():
        if "lora_" in name:
            weight.data.normal_()
    torch.save(peft.state_dict(), tmp_path / "model_world_size_1_rank_0.pt")
    found, merged = trained_weights(tmp_path), peft.merge_and_unload().state_dict()
    assert found.keys() == merged.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(found[name].float(), weight, atol=1e-4, rtol=1e-4, msg=name)


def test_the_table_has_a_row_for_each_architecture_and_marks_what_is_off():
    figures = {"first loss": 1e-7, "moved": 0.5, "agreement": 0.9999, "merge": 0.0}
    found = {kind: {"sft": {"figures": figures, "seconds": 40}} for kind in ARCHITECTURES}
    found["gemma2"] = {"sft": {"figures": figures | {"first loss": 0.3, "agreement": float("nan")}}}
    found["llama"]["grpo"] = {"error": "Traceback"}
    lines = table(found, ["sft", "grpo"]).splitlines()
    assert lines[0] == "| model type | sft | grpo |" and len(lines) == 2 + len(ARCHITECTURES)
    rows = {kind: next(line for line in lines if f"`{kind}`" in line) for kind in ARCHITECTURES}
    assert rows["llama"].endswith("| first loss 1e-07, moved 5e-01, agreement 0.999900, merge 0 | **fails** |")
    assert "first loss 3e-01!" in rows["gemma2"] and "agreement nan!" in rows["gemma2"] and "!" not in rows["qwen2"]
    assert (
        problems(found["gemma2"]["sft"]) == ["first loss 0.3", "agreement nan"]
        and problems(found["qwen2"]["sft"]) == []
    )


def lora_errors(folder, targets):
    knobs = read_knobs("sft", {"LORA_RANK": "8", "LORA_TARGETS": targets})
    check_targets(knobs, read_model(str(folder)))
    return knobs.errors


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_lora_targets_are_found_in_each_architecture(folder_of, kind):
    assert lora_errors(folder_of(kind), "o_proj") == []
    [error] = lora_errors(folder_of(kind), "o_prj")
    assert "the model has no layer 'o_prj'; did you mean o_proj? use all-linear, or some of " in error
    refused = lora_errors(folder_of(kind), "all-linear")
    assert bool(refused) == (kind == "deepseek_v3")


def test_lora_on_a_router_that_it_would_break_is_refused_with_targets_that_work(folder_of):
    [error] = lora_errors(folder_of("deepseek_v3"), "all-linear")
    assert "LORA_TARGETS=all-linear: PEFT hides e_score_correction_bias of the router of a deepseek_v3" in error
    assert f"set LORA_TARGETS={LORA_TARGETS['deepseek_v3']}" in error
    assert lora_errors(folder_of("deepseek_v3"), "gate,o_proj") and not lora_errors(
        folder_of("deepseek_v3"), LORA_TARGETS["deepseek_v3"]
    )
    for targets, works in (("all-linear", False), (LORA_TARGETS["deepseek_v3"].split(","), True)):
        model = AutoModelForCausalLM.from_pretrained(folder_of("deepseek_v3"))
        peft = get_peft_model(model, LoraConfig(r=8, target_modules=targets))
        with nullcontext() if works else pytest.raises(AttributeError, match="e_score_correction_bias"):
            assert torch.isfinite(peft(torch.arange(3, 20)[None]).logits).all()


def test_the_routers_that_read_a_bias_are_those_of_transformers_and_peft():
    folder, found = Path(transformers.__file__).parent / "models", set()
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        file = folder / kind / f"modeling_{kind}.py"
        if file.is_file() and "self.gate.e_score_correction_bias" in file.read_text():
            wrapped = conversion._MOE_TARGET_MODULE_MAPPING.get(conversion._MODEL_TO_CONVERSION_PATTERN.get(kind), {})
            found |= {kind} if "gate" in wrapped else set()
    assert set(BIASED_ROUTERS) == found


def test_two_ropes_are_known_from_either_form_of_a_config():
    factors = {"short_factor": [1.0], "long_factor": [2.0]}
    old = {"rope_scaling": factors | {"type": "longrope"}, "original_max_position_embeddings": 4096}
    new = {"rope_parameters": factors | {"rope_type": "longrope", "original_max_position_embeddings": 4096}}
    assert two_ropes(old) == two_ropes(new) == two_ropes({"text_config": new}) == 4096
    assert two_ropes({"rope_parameters": {"rope_type": "yarn"}}) == two_ropes({"rope_parameters": None}) == 0
