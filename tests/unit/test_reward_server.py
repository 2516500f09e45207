"""The reward model's server on transformers: scores as transformers itself gives them, answers, refusals."""

import asyncio

import pytest
import torch
from aiohttp.test_utils import TestClient, TestServer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.demo_model import DEMO_MODEL_DIR, DEMO_REWARD_MODEL_DIR
from common.demo_model.make_reward_model import conversation
from common.hf_engine.reward_server import RewardServer

GOOD, BAD = "15 + 37 = 52\n#### 52", "The answer is 52."


@pytest.fixture(scope="module")
def classifier():
    return RewardServer(str(DEMO_REWARD_MODEL_DIR), max_length=64)


@pytest.fixture(scope="module")
def judge():
    return RewardServer(str(DEMO_MODEL_DIR))


def ask(server, route, *bodies):
    async def go():
        async with TestClient(TestServer(server.app())) as client:
            replies = await asyncio.gather(*(client.post(route, json=body) for body in bodies))
            return [(reply.status, await reply.json()) for reply in replies]

    return asyncio.run(go())


def text(answer, tokenizer):
    return conversation(tokenizer, "What is 15 + 37?", answer)


def test_scores_are_those_of_transformers_whatever_the_batch(classifier):
    texts = [text(answer, classifier.tokenizer) for answer in (GOOD, BAD, "x", GOOD + " and more of it", "")]
    model = AutoModelForSequenceClassification.from_pretrained(DEMO_REWARD_MODEL_DIR, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO_REWARD_MODEL_DIR)
    with torch.inference_mode():  # one by one, so that nothing is padded
        expected = [model(**tokenizer(one, return_tensors="pt")).logits.item() for one in texts]
    replies = ask(classifier, "/classify", *({"input": one, "use_activation": False} for one in texts))
    assert [reply["data"][-1]["probs"][-1] for _, reply in replies] == pytest.approx(expected, abs=1e-5)
    assert expected[0] > 0.9 and expected[1] < 0.1  # the demo's reward model tells the form
    [(_, reply)] = ask(classifier, "/classify", {"input": texts[:2]})
    assert reply["data"][0]["probs"] == pytest.approx([torch.tensor(expected[0]).sigmoid().item()], abs=1e-5)


def test_a_judge_answers_chats(judge):
    body = {"messages": [{"role": "user", "content": "What is 15 + 37?"}], "temperature": 0, "max_tokens": 24}
    [(status, reply)] = ask(judge, "/v1/chat/completions", body)
    assert status == 200 and "52" in reply["choices"][0]["message"]["content"]
    assert reply["usage"]["completion_tokens"] > 3 and reply["choices"][0]["finish_reason"] == "stop"
    [(_, short)] = ask(judge, "/v1/chat/completions", {**body, "max_tokens": 2})
    assert short["choices"][0]["finish_reason"] == "length"


def test_refusals_say_why(classifier, judge):
    [(status, reply)] = ask(classifier, "/classify", {"input": "1 " * 100})
    assert status == 400 and "1 to 64 are taken" in reply["error"]["message"]
    [(status, reply)] = ask(classifier, "/v1/chat/completions", {"messages": []})
    assert status == 400 and "/classify" in reply["error"]["message"]
    [(status, reply)] = ask(judge, "/classify", {"input": "x"})
    assert status == 400 and "causal language model" in reply["error"]["message"]
