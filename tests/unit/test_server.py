"""The rollout server without Ray: batching, weights, aborts, limits."""

import asyncio
import random

import pytest
import torch

pytest.importorskip("verl")
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from verl.workers.config import HFModelConfig, RolloutConfig  # noqa: E402
from verl.workers.engine.fsdp.utils import unfuse_moe_params  # noqa: E402

from common.demo_model import DEMO_MODEL_DIR  # noqa: E402
from common.hf_engine import server as server_module
from common.hf_engine.rollout import buckets  # noqa: E402
from common.hf_engine.server import HFServer  # noqa: E402

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True}


@pytest.fixture
def batch_sizes(monkeypatch):
    """Sizes of the batches that the server generates, in order."""
    sizes = []
    original = server_module.generate

    def counted(model, requests, *rest):
        sizes.append(len(requests))
        original(model, requests, *rest)

    monkeypatch.setattr(server_module, "generate", counted)
    return sizes


@pytest.fixture
def server():
    config = RolloutConfig(name="hf", prompt_length=64, response_length=16, load_format="safetensors", seed=3)
    return HFServer(config, HFModelConfig(path=str(DEMO_MODEL_DIR)), 0, "cpu", num_threads=1)


def answers(server, count=6, **params):
    async def run():
        calls = [server.generate([1, 40 + i, 50], {**SAMPLING, **params}, f"r{i}") for i in range(count)]
        return await asyncio.gather(*calls)

    return asyncio.run(run())


def test_requests_that_arrive_together_are_one_batch(server, batch_sizes):
    outputs = answers(server)
    assert batch_sizes == [6]
    for output in outputs:
        assert output.stop_reason == "completed"
        assert 1 <= len(output.token_ids) <= 16 and len(output.log_probs) == len(output.token_ids)


def test_the_batch_is_limited_by_memory(server, batch_sizes, monkeypatch):
    monkeypatch.setattr(HFServer, "_memory_limit", lambda self: 2 * (3 + 16))
    answers(server, count=5)
    assert batch_sizes == [2, 2, 1]


def test_max_tokens_follow_vllms_rule(server):
    assert server._max_tokens(10, server_module.SamplingParams()) == 16
    assert server._max_tokens(70, server_module.SamplingParams()) == 10  # 64 + 16 - 70
    assert server._max_tokens(10, server_module.SamplingParams(max_tokens=500)) == 70
    with pytest.raises(ValueError, match="MAX_PROMPT_LENGTH"):
        server._max_tokens(80, server_module.SamplingParams())


def test_new_weights_are_used(server):
    state = {name: tensor.clone() for name, tensor in server.model.state_dict().items()}
    before = answers(server, temperature=0.0)
    server.update_weights([(name, torch.zeros_like(t)) for name, t in state.items()], is_first=True, is_last=True)
    assert answers(server, count=1, temperature=0.0)[0].log_probs[0] == pytest.approx(
        -torch.log(torch.tensor(float(server.model.config.vocab_size))).item(), abs=1e-5
    )
    server.update_weights(list(state.items()), is_first=True, is_last=True)
    assert [o.token_ids for o in answers(server, temperature=0.0)] == [o.token_ids for o in before]


def test_an_unknown_weight_is_refused(server):
    with pytest.raises(KeyError, match="lora.merge=true"):
        server.update_weights([("base_model.model.q.lora_A", torch.zeros(1))], is_first=True, is_last=True)


def test_a_missing_weight_is_noticed(server):
    state = list(server.model.state_dict().items())
    server.update_weights(state[:3], is_first=True, is_last=False)
    with pytest.raises(RuntimeError, match="incomplete"):
        server.update_weights(state[3:-4], is_first=False, is_last=True)


def test_abort_returns_what_there_is_and_resume_admits_again(server, monkeypatch):
    config_length = server.config.response_length
    assert config_length == 16

    async def run():
        slow = asyncio.create_task(server.generate([1, 2], {**SAMPLING, "ignore_eos": True, "max_tokens": 60}, "slow"))
        while not server.active:
            await asyncio.sleep(0)
        result = await server.abort_all_requests(reject_request=True)
        rejected = await server.generate([1, 2], dict(SAMPLING), "late")
        await server.resume_generation()
        return result, await slow, rejected, await server.generate([1, 2], dict(SAMPLING), "after")

    result, slow, rejected, after = asyncio.run(run())
    assert result == {"aborted_count": 1, "request_ids": ["slow"]}
    assert slow.stop_reason == "aborted" and len(slow.token_ids) < 60
    assert rejected.stop_reason == "aborted" and rejected.token_ids == []
    assert after.stop_reason == "completed"


def test_an_error_reaches_every_caller_and_the_server_lives(server, monkeypatch):
    original = server_module.generate

    def broken(*args):
        raise RuntimeError("boom")

    monkeypatch.setattr(server_module, "generate", broken)
    with pytest.raises(RuntimeError, match="boom"):
        answers(server, count=2)
    monkeypatch.setattr(server_module, "generate", original)
    assert answers(server, count=1)[0].stop_reason == "completed"


def test_images_are_refused(server):
    with pytest.raises(ValueError, match="text only"):
        asyncio.run(server.generate([1], dict(SAMPLING), "x", image_data=[object()]))


def all_buckets(weights, limit):
    async def collect():
        return [bucket async for bucket in buckets(weights, limit)]

    return asyncio.run(collect())


async def arriving(weights):
    for weight in weights:
        yield weight


def test_buckets_split_by_size_and_mark_the_last():
    weights = [("a", torch.zeros(4)), ("b", torch.zeros(4)), ("c", torch.zeros(100)), ("d", torch.zeros(1))]
    received = all_buckets(iter(weights), 32), all_buckets(arriving(weights), 32)  # from the trainer, from elsewhere
    for each in received:
        got = [([name for name, _ in bucket], is_last) for bucket, is_last in each]
        assert got == [(["a", "b"], False), (["c"], False), (["d"], True)]


def small_mixture(kind):
    """The config of a mixture of 12 experts (two digits: their order is that of numbers, not of texts)."""
    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "num_experts_per_tok": 2}
    if kind == "qwen3_moe":
        return AutoConfig.for_model(kind, **sizes, num_experts=12)
    if kind == "mixtral":
        return AutoConfig.for_model(kind, **sizes, num_local_experts=12)
    ranks = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    routing = {"n_routed_experts": 12, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    return AutoConfig.for_model(kind, **sizes, **ranks, **routing)


def server_of(config, path):
    """A server that waits for the trainer's weights, of a model with the demo's tokenizer."""
    AutoTokenizer.from_pretrained(DEMO_MODEL_DIR).save_pretrained(path)
    config.architectures = [type(AutoModelForCausalLM.from_config(config)).__name__]
    config.save_pretrained(path)
    settings = RolloutConfig(name="hf", prompt_length=64, response_length=16, load_format="dummy", seed=3)
    return HFServer(
        settings, HFModelConfig(path=str(path), override_config={"attn_implementation": "sdpa"}), 0, "cpu", 1
    )


@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3", "mixtral"])
def test_experts_sent_one_by_one_arrive_as_the_trainer_holds_them(kind, tmp_path):
    config = small_mixture(kind)
    server = server_of(config, tmp_path)
    trainer = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in trainer.parameters():
            parameter.normal_()  # the update
    sent = list(unfuse_moe_params(iter(trainer.state_dict().items()), config.model_type))
    assert any(".mlp.experts.11.down_proj.weight" in name for name, _ in sent)
    random.Random(0).shuffle(sent)
    for number, (bucket, is_last) in enumerate(all_buckets(iter(sent), 20_000)):
        server.update_weights(bucket, is_first=number == 0, is_last=is_last)
    assert number > 3
    held = server.model.state_dict()
    assert held.keys() == trainer.state_dict().keys()
    for name, weight in trainer.state_dict().items():
        assert torch.equal(held[name], weight), name
    ids = torch.randint(0, 512, (2, 9))
    assert torch.equal(server.model(ids).logits, trainer.eval()(ids).logits)


def test_an_expert_that_was_not_sent_ends_the_transfer(tmp_path):
    server = server_of(small_mixture("qwen3_moe"), tmp_path)
    sent = [
        pair for pair in unfuse_moe_params(iter(server.model.state_dict().items())) if ".experts.5.up" not in pair[0]
    ]
    with pytest.raises(RuntimeError, match="gate_up_proj"):
        server.update_weights(sent, is_first=True, is_last=True)


def test_the_advice_on_an_unknown_weight_fits_it(server):
    for name, advice in (("a.lora_A.weight", "lora.merge=true"), ("a.experts.0.w1.weight", "ROLLOUT_ENGINE=vllm")):
        with pytest.raises(KeyError, match=advice):
            server.update_weights([(name, torch.zeros(1))], is_first=True, is_last=True)
