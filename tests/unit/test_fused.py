"""verl's chunked head against the plain path: log-probabilities, entropy, gradients and memory; and who may have it."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from verl.models.transformers.monkey_patch import patch_forward_with_backends

from common.plan.fit import choose
from common.plan.machine import GIB, parse_gpus
from common.plan.memory import FUSED_BYTES, FUSED_ROWS, Setup, memory_of
from common.plan.weights import read_weights
from common.preflight import fused
from common.preflight.knobs import read_knobs
from common.preflight.model import ModelInfo
from tests.published_models import MODELS
from tests.unit.small_models import small_config


@pytest.fixture
def make_model():
    """A random model of a family, all of its weights moved from where they start; classes are put right afterwards."""
    changed = {}

    def make(family, vocabulary=90, **settings):
        torch.manual_seed(3)
        config = AutoConfig.for_model(**small_config(family) | {"vocab_size": vocabulary} | settings)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        changed.setdefault(type(model), type(model).forward)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    yield make
    for kind, forward in changed.items():
        kind.forward = forward


def plain(model, ids, labels, temperature):
    """Log-probabilities and entropies of whole logits, from their definitions."""
    logits = model(input_ids=ids, use_cache=False).logits / temperature
    log_probs = logits.log_softmax(-1)
    picked = log_probs.gather(-1, labels[..., None]).squeeze(-1)
    return picked, -(log_probs.exp() * log_probs).sum(-1)


def chunked(model, ids, labels, temperature):
    """The same, from verl."""
    patch_forward_with_backends(model, use_fused_kernels=True, fused_kernels_backend="torch")
    out = model(input_ids=ids, use_cache=False, temperature=temperature, shift_labels=labels, return_dict=True)
    return out.log_probs, out.entropy


def gradients(model, outputs, weights):
    loss = sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True))
    return torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)


def difference(model, tokens=600):
    """Largest difference of outputs, and of gradients as a share of the largest gradient."""
    ids, labels = torch.randint(3, 90, (2, 1, tokens))
    weights = torch.randn(2, 1, tokens) / tokens
    ways = []
    for way in (plain, chunked):
        outputs = way(model, ids, labels, 0.7)
        ways.append((outputs, gradients(model, outputs, weights)))
    (one, ours), (two, theirs) = ways
    largest = max(float(gradient.abs().max()) for gradient in ours)
    outputs = max(float((a - b).detach().abs().max()) for a, b in zip(one, two, strict=True))
    return outputs, max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) / largest


@pytest.mark.parametrize("family", fused.FAMILIES)
def test_chunks_give_what_whole_logits_give(make_model, family):
    """600 tokens are two chunks of verl's."""
    outputs, grads = difference(make_model(family))
    assert outputs < 1e-5 and grads < 1e-5, (outputs, grads)


SKIPPED = {  # what verl's chunked head leaves out
    "gemma2": {"final_logit_softcapping": 2.0, "head_dim": 8},
    "cohere": {"logit_scale": 0.5},
    "granite": {"logits_scaling": 8.0},
    "phi": {},  # a bias
}


@pytest.mark.parametrize("family", SKIPPED)
def test_families_that_it_is_wrong_for_are_not_among_them(make_model, family):
    """The day this fails verl has learnt it, and the family can be let in."""
    assert family not in fused.FAMILIES
    assert difference(make_model(family, **SKIPPED[family]), tokens=40)[0] > 0.01


def test_padded_rows_give_the_same_as_rows_alone(make_model):
    """ATTENTION=sdpa: verl shifts the padded rows themselves; the last word of a row is never asked for."""
    model = make_model("qwen3")
    rows = [torch.randint(3, 90, (length,)) for length in (9, 4, 6)]
    alone = [plain(model, row[None], row.roll(-1)[None], 1.0)[0][0, :-1] for row in rows]
    patch_forward_with_backends(model, use_fused_kernels=True, fused_kernels_backend="torch")
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    out = model(input_ids=ids, attention_mask=(ids > 0).long(), use_cache=False, temperature=1.0, return_dict=True)
    for row, expected in zip(out.log_probs, alone, strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, atol=1e-5, rtol=1e-5)


# ---- memory --------------------------------------------------------------------------------------------------------


def peak_bytes(function) -> int:
    """The most that tensors made inside a call took at once, by torch's own count of its allocations."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    now = most = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def train(way, tokens, words, hidden=64):
    """A forward and a backward pass through the head alone, with everything it needs made before."""
    inputs, head = torch.randn(tokens, hidden, requires_grad=True), torch.randn(words, hidden, requires_grad=True)
    labels = torch.randint(words, (tokens,))

    def step():
        log_probs, entropy = way(inputs, head, labels)
        (log_probs.mean() + entropy.mean()).backward()

    return step


def whole_head(inputs, head, labels):
    log_probs = (inputs @ head.t()).log_softmax(-1)
    return log_probs.gather(-1, labels[:, None]), -(log_probs.exp() * log_probs).sum(-1)


def test_the_memory_of_chunks_is_the_plans_however_many_tokens():
    """Float32 and 4,000 words: whole logits of 4,096 tokens are 66 MB each."""
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    words, tokens, hidden = 4000, 4096, 64
    whole = peak_bytes(train(whole_head, tokens, words))
    few, many = (peak_bytes(train(FusedLinearForPPO(), count, words)) for count in (FUSED_ROWS, tokens))
    assert whole > 3 * tokens * words * 4 > many * 2
    assert many - few < 4 * 4 * tokens * hidden  # gradients of the inputs; nothing of the size of logits
    chunk, weights = FUSED_BYTES * FUSED_ROWS * words, 2 * 4 * words * hidden
    assert 0.8 < few / (chunk + weights) < 1.1, (few, chunk, weights)


def test_the_plan_takes_chunks_where_logits_are_large_and_the_model_may():
    # 7B, 152,064 words: 16,384 tokens x 152,064 x 6 bytes = 13.9 GiB of 79
    setup = Setup(read_weights(MODELS["Qwen2.5-7B"][0]), parse_gpus("8x80GB"), 0, 2048, fusable=True)
    fit = choose(setup)
    assert fit.setup.fused and fit.memory.training["logits"] == 32 * 512 * 152064 + 2 * 2 * 152064 * 3584
    assert not choose(Setup(setup.model, setup.gpus, 0, 2048)).setup.fused
    # one tenth: 4,096 tokens take 3.5 GiB
    few = Setup(setup.model, setup.gpus, 4096, 2048, fusable=True)
    fit = choose(few, frozenset({"tokens"}))
    assert not fit.setup.fused and fit.memory.training["logits"] == 6 * 4096 * 152064
    forced = Setup(setup.model, setup.gpus, 4096, 2048, fused=True, fusable=True)
    assert choose(forced, frozenset({"tokens", "fused"})).setup.fused
    lora = memory_of(Setup(setup.model, setup.gpus, 4096, 2048, fused=True, lora_rank=8))
    assert lora.training["logits"] == 32 * 512 * 152064  # a frozen head has no gradient


def test_chunks_leave_room_for_more_tokens_on_a_small_card():
    model = read_weights(MODELS["Qwen2.5-1.5B"][0])
    plain_fit, fit = (
        choose(Setup(model, parse_gpus("1x48GB"), 0, 2048, lora_rank=16, flash=False, fusable=fusable))
        for fusable in (False, True)
    )
    assert fit.setup.tokens >= plain_fit.setup.tokens
    assert sum(fit.memory.training.values()) < sum(plain_fit.memory.training.values()) <= 48 * GIB


# ---- the knob ------------------------------------------------------------------------------------------------------


def problem(model_type="qwen3", **knobs):
    info = ModelInfo("/m", {"model_type": model_type} if model_type else {}, 1, "")
    read = read_knobs("grpo", knobs)
    fused.check_fused(read, info)
    return read


@pytest.mark.parametrize("family", [*SKIPPED, "gpt_neox", "qwen2_5_vl", ""])
def test_a_family_that_is_not_known_to_be_right(family):
    assert problem(family)["FUSED_KERNELS"] == "false"
    (error,) = problem(family, FUSED_KERNELS="true").errors
    assert error.startswith("FUSED_KERNELS=true: verl's chunked head is not known to be right for")


def test_an_adapter_of_the_head_is_refused(tmp_path):
    (error,) = problem(FUSED_KERNELS="true", LORA_RANK="8", LORA_TARGETS="q_proj,lm_head").errors
    assert "leaves out an adapter of lm_head" in error
    assert problem(LORA_RANK="8", LORA_TARGETS="q_proj,lm_head")["FUSED_KERNELS"] == "false"
    assert problem(FUSED_KERNELS="true", LORA_RANK="0", LORA_TARGETS="lm_head").errors == []
    adapter = {"r": 8, "target_modules": ["q_proj"], "modules_to_save": ["model.lm_head"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    assert len(problem(FUSED_KERNELS="true", LORA_RANK="8", LORA_ADAPTER_PATH=str(tmp_path)).errors) == 1
    assert problem(FUSED_KERNELS="true", LORA_RANK="8").errors == []
