"""Batched generation against ``model.generate`` of transformers, one prompt at a time."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.demo_model import DEMO_MODEL_DIR
from common.hf_engine.generation import Request, generate, pad_left
from common.hf_engine.sampling import SamplingParams

GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(DEMO_MODEL_DIR, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)


def prompts(tokenizer) -> list[list[int]]:
    questions = ["What is 7 + 8?", "What is 12 + 30?", "Hello", "What is 1 + 1? " * 6]
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in questions
    ]


def ask(tokenizer, params=GREEDY, max_tokens=24, stop_ids=None) -> list[Request]:
    stop = frozenset([tokenizer.eos_token_id]) if stop_ids is None else stop_ids
    return [Request(ids, params, max_tokens, stop) for ids in prompts(tokenizer)]


def test_greedy_equals_model_generate(model, tokenizer):
    requests = ask(tokenizer)
    generate(model, requests, tokenizer.pad_token_id)
    for request in requests:
        alone = model.generate(
            torch.tensor([request.prompt_ids]), max_new_tokens=24, do_sample=False, eos_token_id=tokenizer.eos_token_id
        )
        assert request.token_ids == alone[0, len(request.prompt_ids) :].tolist()


def test_log_probabilities_equal_a_forward_pass(model, tokenizer):
    requests = ask(tokenizer, SamplingParams(temperature=0.7))
    generate(model, requests, tokenizer.pad_token_id, torch.Generator().manual_seed(5))
    for request in requests:
        ids = torch.tensor([request.prompt_ids + request.token_ids])
        with torch.no_grad():
            logits = model(ids).logits[0, len(request.prompt_ids) - 1 : -1] / 0.7
        expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(request.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(request.log_probs), expected, atol=1e-4, rtol=1e-4)


def test_stops_at_the_stop_token_and_keeps_it(model, tokenizer):
    requests = ask(tokenizer)
    generate(model, requests, tokenizer.pad_token_id)
    ended = [request for request in requests if request.token_ids[-1] == tokenizer.eos_token_id]
    assert ended and all(request.token_ids.count(tokenizer.eos_token_id) == 1 for request in ended)


def test_each_request_has_its_own_length(model, tokenizer):
    requests = ask(tokenizer, stop_ids=frozenset())
    for limit, request in zip((1, 3, 9, 20), requests, strict=True):
        request.max_tokens = limit
    generate(model, requests, tokenizer.pad_token_id)
    assert [len(request.token_ids) for request in requests] == [1, 3, 9, 20]
    assert all(request.finished for request in requests)


def test_shrinking_the_batch_changes_no_answer(model, tokenizer):
    """The last of these requests runs alone at the end, after the others have left the batch."""
    requests = ask(tokenizer, stop_ids=frozenset())
    for limit, request in zip((2, 3, 4, 24), requests, strict=True):
        request.max_tokens = limit
    alone = Request(requests[3].prompt_ids, GREEDY, 24, frozenset())
    generate(model, requests, tokenizer.pad_token_id)
    generate(model, [alone], tokenizer.pad_token_id)
    assert requests[3].token_ids == alone.token_ids


def test_an_aborted_request_keeps_what_it_has(model, tokenizer):
    first, second = ask(tokenizer, stop_ids=frozenset())[:2]
    first.aborted.set()
    generate(model, [first, second], tokenizer.pad_token_id)
    assert first.token_ids == [] and not first.finished
    assert len(second.token_ids) == 24 and second.finished


def test_pad_left():
    ids, mask = pad_left([[5, 6, 7], [8]], 0, "cpu")
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
