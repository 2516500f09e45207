"""Attention without padding and log-probabilities in chunks, against float64 and against verl's own way."""

import time

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import common.hf_engine.varlen_attention as varlen
from common.verl_ext.log_probs import chunked_log_probs
from tests.gpu.conftest import DEVICE, REHEARSAL, report

LENGTHS = (3, 129, 17, 64) if REHEARSAL else (1500, 3, 800, 129, 1, 2048, 64)
HEADS = {"grouped": (14, 2, 64), "equal": (8, 8, 128), "demo": (4, 2, 32)}


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds(function, times=3):
    function()
    synchronize()
    start = time.perf_counter()
    for _ in range(times):
        function()
    synchronize()
    return (time.perf_counter() - start) / times


def peak_gib(function):
    """Memory that a call takes at its peak beyond what is there before; 0 without a GPU."""
    if DEVICE != "cuda":
        function()
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


@pytest.mark.parametrize("window", [None, 50], ids=["full", "window"])
@pytest.mark.parametrize("heads", HEADS)
def test_packed_attention_and_its_gradients_against_float64(heads, window):
    count, groups, size = HEADS[heads]
    generator = torch.Generator(DEVICE).manual_seed(0)
    tokens = sum(LENGTHS)
    shapes = ((count, size), (groups, size), (groups, size))
    drawn = [torch.randn(1, n, tokens, d, generator=generator, device=DEVICE) for n, d in shapes]
    positions = torch.cat([torch.arange(length, device=DEVICE) for length in LENGTHS])[None]
    weights = torch.randn(1, tokens, count, size, generator=generator, device=DEVICE)
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = count // groups, True

    def run(dtype):
        given = [tensor.to(dtype).requires_grad_() for tensor in drawn]
        out, _ = varlen.sdpa_varlen(module, *given, None, positions, sliding_window=window, scaling=size**-0.5)
        return out, torch.autograd.grad((out * weights.to(dtype)).sum(), given)

    expected, expected_gradients = run(torch.float64)
    found, gradients = run(torch.bfloat16)
    error = float((found - expected).abs().max())
    gradient_error = max(
        float((one - other).abs().max() / other.abs().max())
        for one, other in zip(gradients, expected_gradients, strict=True)
    )
    uses = varlen._kernel_takes(drawn[0].bfloat16(), drawn[2].bfloat16(), {})
    report("attention", heads=heads, window=window or "-", kernel=uses, error=error, gradient_error=gradient_error)
    assert uses == (DEVICE == "cuda")
    assert error < 0.03  # bfloat16 has 8 bits: 1 in 256 of values up to about 4
    assert gradient_error < 0.02


def test_packed_model_against_padded_model():
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 1000}
    torch.manual_seed(0)
    config = Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096)
    model = Qwen2ForCausalLM(config).to(DEVICE, torch.bfloat16).eval()
    rows = [torch.randint(1, 1000, (length,), device=DEVICE) for length in LENGTHS]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    packed = torch.cat(rows)[None]
    positions = torch.cat([torch.arange(len(row), device=DEVICE) for row in rows])[None]

    def with_padding():
        model.set_attn_implementation("sdpa")
        return model(input_ids=padded, attention_mask=mask, use_cache=False).logits[mask.bool()]

    def without_padding():
        model.set_attn_implementation(varlen.NAME)
        return model(input_ids=packed, position_ids=positions, use_cache=False).logits[0]

    def backward(function):
        model.zero_grad()
        function().float().logsumexp(-1).sum().backward()

    with torch.no_grad():
        one, other = with_padding().float(), without_padding().float()
        exact = model.double()
        model.set_attn_implementation("sdpa")
        truth = exact(input_ids=padded, attention_mask=mask, use_cache=False).logits[mask.bool()]
        model.to(torch.bfloat16)
    errors = [float((logits - truth).abs().max()) for logits in (one, other)]
    times = [seconds(lambda f=f: backward(f)) for f in (with_padding, without_padding)]
    memory = [peak_gib(lambda f=f: backward(f)) for f in (with_padding, without_padding)]
    tokens = sum(LENGTHS)
    for name, error, took, gib, rows_ in zip(
        ("sdpa, padded", "sdpa_varlen"), errors, times, memory, (padded.numel(), tokens), strict=True
    ):
        report("padding", attention=name, tokens=tokens, rows=rows_, error=error, ms=1e3 * took, peak_gib=gib)
    assert errors[1] <= 1.5 * errors[0]


@pytest.mark.parametrize("vocabulary", [512, 151936])
def test_log_probabilities_in_chunks(vocabulary):
    from verl.utils.torch_functional import logprobs_from_logits_naive

    tokens = 256 if REHEARSAL else (4096 if vocabulary > 1000 else 16384)
    generator = torch.Generator(DEVICE).manual_seed(0)
    logits = 3 * torch.randn(tokens, vocabulary, generator=generator, device=DEVICE).bfloat16()
    labels = torch.randint(0, vocabulary, (tokens,), generator=generator, device=DEVICE)

    def verls_loop(given, labels):  # its logprobs_from_logits_v2, which the kit replaces
        rows = [torch.log_softmax(row, -1).gather(-1, label[None])[0] for row, label in zip(given, labels, strict=True)]
        return torch.stack(rows)

    check = slice(0, 512)
    exact = logits[check].double().requires_grad_()
    truth = torch.log_softmax(exact, -1).gather(-1, labels[check, None])[:, 0]
    (true_gradient,) = torch.autograd.grad(truth.sum(), exact)

    def step(function):
        given = logits.detach().requires_grad_()
        found = function(given, labels)
        return found, torch.autograd.grad(found.float().sum(), given)[0]

    errors = {}
    for name, function in (("chunks", chunked_log_probs), ("whole", logprobs_from_logits_naive), ("loop", verls_loop)):
        found, gradient = step(function)
        errors[name] = (
            float((found[check] - truth).detach().abs().max()),
            float((gradient[check] - true_gradient).abs().max()),
        )
        del found, gradient
        memory = peak_gib(lambda f=function: step(f))
        took = seconds(lambda f=function: step(f), times=1)
        error, gradient_error = errors[name]
        report("log-probabilities", way=name, tokens=tokens, vocabulary=vocabulary, error=error,
               gradient_error=gradient_error, ms=1e3 * took, peak_gib=memory)  # fmt: skip
    assert errors["chunks"][0] < 1e-4
    assert errors["chunks"][1] <= errors["loop"][1]
