"""The attention that the kit chooses for each architecture, in training and while answering, against plain float64."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config
from verl.workers.config import HFModelConfig, RolloutConfig

import common.hf_engine.varlen_attention  # noqa: F401  (registers sdpa_varlen)
from common.attention import PADDED, beyond_sdpa
from common.evaluation.engines.transformers_engine import load
from common.evaluation.model_path import ModelSource
from common.hf_engine.generation import Request, generate
from common.hf_engine.sampling import SamplingParams
from common.hf_engine.server import HFServer
from common.preflight.auto import resolve_attention
from common.preflight.knobs import read_knobs
from common.preflight.model import read_model
from tests.tiny_models import ARCHITECTURES, plain_log_probs, plain_model, tiny_config, write_tiny_model

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


@pytest.mark.parametrize("kind", ARCHITECTURES)
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
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_rollout_server_answers_with_plain_log_probabilities(folder_of, kind, load_format):
    folder = folder_of(kind)
    settings = RolloutConfig(name="hf", prompt_length=64, response_length=16, load_format=load_format, seed=3)
    trained = {"attn_implementation": chosen_attention(folder)}
    server = HFServer(settings, HFModelConfig(path=str(folder), override_config=trained), 0, "cpu", 1)
    plain = plain_model(folder)
    if load_format == "dummy":
        server.model.load_state_dict(plain.state_dict())
    prompts = [torch.randint(3, 512, (length,)).tolist() for length in LENGTHS]
    requests = [Request(ids, SamplingParams(), 12, frozenset()) for ids in prompts]
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
