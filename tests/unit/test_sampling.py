"""Sampling of the rollout engine against transformers' own logits processors and against counting."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from common.hf_engine.sampling import BatchSampler, SamplingParams, filter_top_k_top_p


def logits(rows: int = 6, vocabulary: int = 50) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(3)) * 3


@pytest.mark.parametrize("top_k", [-1, 1, 5, 50])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
def test_filter_equals_transformers(top_k, top_p):
    scores = logits()
    expected = TopKLogitsWarper(top_k)(None, scores) if top_k > 0 else scores
    expected = TopPLogitsWarper(top_p)(None, expected) if top_p < 1 else expected
    rows = len(scores)
    ours = filter_top_k_top_p(scores, torch.full((rows,), top_k), torch.full((rows,), top_p))
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_each_row_has_its_own_parameters():
    scores = logits(3)
    ours = filter_top_k_top_p(scores, torch.tensor([2, -1, -1]), torch.tensor([1.0, 0.5, 1.0]))
    assert torch.isfinite(ours[0]).sum() == 2
    torch.testing.assert_close(ours[1:2], TopPLogitsWarper(0.5)(None, scores[1:2]), rtol=0, atol=0)
    torch.testing.assert_close(ours[2], scores[2], rtol=0, atol=0)


def test_log_probability_is_under_the_processed_distribution():
    scores = logits(1)
    params = SamplingParams(temperature=0.7, top_k=8, top_p=0.8)
    processed = TopPLogitsWarper(0.8)(None, TopKLogitsWarper(8)(None, TemperatureLogitsWarper(0.7)(None, scores)))
    expected = torch.log_softmax(processed, -1)[0]
    for seed in range(5):
        token, log_prob = BatchSampler([params], "cpu")(scores, torch.Generator().manual_seed(seed))
        assert log_prob.item() == pytest.approx(expected[token].item(), abs=1e-6)
        assert torch.isfinite(expected[token])


def test_raw_log_probability_ignores_temperature():
    scores = logits(1)
    token, log_prob = BatchSampler([SamplingParams(temperature=0.5)], "cpu", raw_logprobs=True)(scores, None)
    assert log_prob.item() == pytest.approx(torch.log_softmax(scores, -1)[0, token].item(), abs=1e-6)


def test_greedy_takes_the_most_likely_and_reports_its_probability():
    scores = logits(4)
    tokens, log_probs = BatchSampler([SamplingParams(temperature=0.0)] * 4, "cpu")(scores, None)
    assert tokens.tolist() == scores.argmax(-1).tolist()
    torch.testing.assert_close(log_probs, torch.log_softmax(scores, -1).max(-1).values)


def test_frequencies_follow_the_distribution():
    expected = torch.tensor([0.5, 0.25, 0.15, 0.1])
    rows = 20_000
    sampler = BatchSampler([SamplingParams()] * rows, "cpu")
    tokens, _ = sampler(expected.log().expand(rows, -1), torch.Generator().manual_seed(0))
    shares = torch.bincount(tokens, minlength=4) / rows
    # three standard errors of a share: 3 * sqrt(0.5 * 0.5 / 20000) = 0.0106
    assert (shares - expected).abs().max() < 0.0106


def test_a_seed_of_its_own_repeats_whatever_the_batch():
    scores = logits(1).expand(3, -1)
    seeded = SamplingParams(seed=11)
    one, _ = BatchSampler([seeded], "cpu")(scores[:1], torch.Generator().manual_seed(1))
    many, _ = BatchSampler([SamplingParams(), seeded, SamplingParams()], "cpu")(
        scores, torch.Generator().manual_seed(2)
    )
    assert many[1] == one[0]


def test_from_verl_reads_what_agent_loops_send():
    params = SamplingParams.from_verl(
        {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.0, "logprobs": True, "max_tokens": 5}
    )
    assert params == SamplingParams(temperature=0.7, top_p=0.9, top_k=20, max_tokens=5, logprobs=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"repetition_penalty": 1.2}, "repetition_penalty is not available"),
        ({"stop": ["\n"]}, r"\['stop'\] are not available"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"top_k": -7}, "top_k=-7"),
    ],
)
def test_what_it_cannot_do_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        SamplingParams.from_verl(given)
