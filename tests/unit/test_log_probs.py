"""Log-probabilities in chunks: the numbers of verl's own loop, with gradients, and in its place."""

import pytest
import torch

pytest.importorskip("verl")
from verl.utils.torch_functional import logprobs_from_logits_naive  # noqa: E402

from common.verl_ext import (
    log_probs,  # noqa: E402
    table,  # noqa: E402
)


@pytest.mark.parametrize("shape", [(7,), (3, 5)])
def test_chunked_log_probs_equal_log_softmax_with_gradients(monkeypatch, shape):
    monkeypatch.setattr(log_probs, "CHUNK_NUMBERS", 40)  # two rows of 20 a chunk
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, 20, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 20, shape, generator=generator)
    ours = log_probs.chunked_log_probs(logits, labels)
    expected = torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]
    torch.testing.assert_close(ours, expected)
    (ours_grad,) = torch.autograd.grad(ours.pow(2).sum(), logits)
    (expected_grad,) = torch.autograd.grad(expected.pow(2).sum(), logits)
    torch.testing.assert_close(ours_grad, expected_grad)


def test_bfloat16_logits_are_nearer_to_float64_than_verls_own_way(monkeypatch):
    monkeypatch.setattr(log_probs, "CHUNK_NUMBERS", 1000)  # 20 rows a chunk
    logits = (torch.randn(64, 50, generator=torch.Generator().manual_seed(1)) * 20).bfloat16()
    labels = torch.arange(64) % 50
    exact_logits = logits.double().requires_grad_()
    expected = torch.log_softmax(exact_logits, -1).gather(-1, labels[:, None])[:, 0]
    (expected_grad,) = torch.autograd.grad(expected.pow(2).sum(), exact_logits)
    errors = []
    for function in (log_probs.chunked_log_probs, logprobs_from_logits_naive):
        given = logits.clone().requires_grad_()
        found = function(given, labels)
        (grad,) = torch.autograd.grad(found.pow(2).sum(), given)
        errors.append([float((found - expected).abs().max()), float((grad - expected_grad).abs().max())])
    assert log_probs.chunked_log_probs(logits, labels).dtype == torch.float32
    assert errors[0][0] < 1e-4 < errors[1][0]
    assert errors[0][1] <= errors[1][1]


def test_verls_loop_is_replaced():
    from verl.utils import torch_functional

    table.replace({"all"})
    seen = []
    original = log_probs.chunked_log_probs
    try:
        log_probs.chunked_log_probs = lambda *args: seen.append(args) or original(*args)
        torch_functional.logprobs_from_logits(torch.zeros(2, 4), torch.tensor([0, 1]))
    finally:
        log_probs.chunked_log_probs = original
    assert len(seen) == 1
