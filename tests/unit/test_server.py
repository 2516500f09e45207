"""The rollout server without Ray: batching, weights, aborts, limits."""

import asyncio

import pytest
import torch

pytest.importorskip("verl")
from verl.workers.config import HFModelConfig, RolloutConfig  # noqa: E402

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


def test_buckets_split_by_size_and_mark_the_last():
    weights = [("a", torch.zeros(4)), ("b", torch.zeros(4)), ("c", torch.zeros(100)), ("d", torch.zeros(1))]
    got = [([name for name, _ in bucket], is_last) for bucket, is_last in buckets(iter(weights), limit=32)]
    assert got == [(["a", "b"], False), (["c"], False), (["d"], True)]
