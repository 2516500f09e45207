"""On-policy distillation: the teacher's log-probabilities and verl's losses against float64, and the preflight."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
import torch

from common.demo_model import DEMO_MODEL_DIR
from common.hf_engine.generation import Request
from common.hf_engine.prompt_log_probs import score_prompts
from common.hf_engine.sampling import SamplingParams
from tests.unit.test_preflight import only_error

PROMPTS = ([5, 9, 100, 7, 3, 44], [12, 13], [400, 1, 2, 3, 4, 5, 6, 7, 8])


@pytest.fixture(scope="module")
def demo():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(DEMO_MODEL_DIR, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def plain(demo):
    """Log-probabilities of each place over the next token, float64, one prompt at a time, by numpy."""
    import copy

    exact = copy.deepcopy(demo).double()
    found = []
    for ids in PROMPTS:
        with torch.no_grad():
            logits = exact(torch.tensor([ids])).logits[0].numpy()
        shifted = logits - logits.max(-1, keepdims=True)
        found.append(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
    return found


def scored(model, top):
    requests = [
        Request(list(ids), SamplingParams(max_tokens=1, prompt_logprobs=top), max_tokens=1, stop_ids=frozenset())
        for ids in PROMPTS
    ]
    score_prompts(model, requests, pad_token_id=0)
    return [request.prompt_scores for request in requests]


def test_a_prompts_own_tokens_are_scored_as_in_float64(demo, plain):
    for ids, scores, exact in zip(PROMPTS, scored(demo, 0), plain, strict=True):
        assert scores["prompt_ids"] == [[token] for token in ids[1:]] + [[0]]  # moved by one, as verl's vLLM server
        expected = [exact[place, token] for place, token in enumerate(ids[1:])]
        got = [values[0] for values in scores["prompt_logprobs"]]
        assert got[-1] == 0.0 and got[:-1] == pytest.approx(expected, abs=1e-4)


def test_the_most_likely_tokens_are_those_of_float64(demo, plain):
    for scores, exact in zip(scored(demo, 3), plain, strict=True):
        expected = np.sort(exact[:-1], axis=-1)[:, :-4:-1]
        assert np.array(scores["prompt_logprobs"])[:-1] == pytest.approx(expected, abs=1e-4)
        picked = np.take_along_axis(exact[:-1], np.array(scores["prompt_ids"])[:-1], axis=-1)
        assert picked == pytest.approx(expected, abs=1e-4)


def test_few_prompts_at_once_give_the_same(demo, monkeypatch):
    from common.hf_engine import prompt_log_probs

    together = scored(demo, 0)
    monkeypatch.setattr(prompt_log_probs, "LOGITS", 1)
    for one, other in zip(scored(demo, 0), together, strict=True):
        assert np.array(one["prompt_logprobs"]) == pytest.approx(np.array(other["prompt_logprobs"]), abs=1e-5)


def test_verls_teacher_client_reads_the_servers_answer(demo):
    """The parameters that verl sends to a teacher, through the server's own queue."""
    from types import SimpleNamespace

    from verl.experimental.teacher_loop.teacher_manager import _get_teacher_sampling_params

    from common.hf_engine.server import HFServer

    loss = SimpleNamespace(topk=2, loss_settings=SimpleNamespace(use_topk=False))
    teacher = SimpleNamespace(inference=SimpleNamespace(temperature=1.0))
    params = _get_teacher_sampling_params(teacher, loss)
    server = HFServer.__new__(HFServer)
    server.model, server.pad_token_id, server.generator = demo, 0, None
    server.config = SimpleNamespace(
        max_num_seqs=8, gpu_memory_utilization=0.5, logprobs_mode="processed_logprobs", ignore_eos=False,
        max_model_len=None, prompt_length=32, response_length=1,
    )  # fmt: skip
    server.device, server.stop_ids, server.global_steps = torch.device("cpu"), frozenset(), None
    server.waiting, server.active, server.worker, server.paused, server.rejecting = [], {}, None, False, False
    server.arrival = 0.0

    async def ask():
        return await asyncio.gather(
            *(server.generate(ids, params, request_id=str(n)) for n, ids in enumerate(PROMPTS)),
            server.generate([5, 9], {"temperature": 0.0, "max_tokens": 2, "logprobs": True}, request_id="answer"),
        )

    *outputs, answered = asyncio.run(ask())
    for ids, output, scores in zip(PROMPTS, outputs, scored(demo, 0), strict=True):
        assert output.token_ids == [] and len(output.extra_fields["prompt_ids"]) == len(ids)
        expected = np.array(scores["prompt_logprobs"])
        assert np.array(output.extra_fields["prompt_logprobs"]) == pytest.approx(expected, abs=1e-5)
    assert len(answered.token_ids) == 2 and "prompt_ids" not in answered.extra_fields


# ---- verl's losses, on packed sequences as its actor hands them over -------------------------------------------------

SHAPES = ((3, 4), (2, 6), (5, 1))  # tokens of prompt and answer
RULES = {
    "k1": lambda q, p: q - p,
    "k2": lambda q, p: 0.5 * (q - p) ** 2,
    "k3": lambda q, p: np.exp(p - q) - (p - q) - 1,
    "abs": lambda q, p: np.abs(q - p),
}


def nested(parts):
    return torch.nested.as_nested_tensor(parts, layout=torch.jagged)


@pytest.fixture
def batch():
    """Log-probabilities of both models for each place over the next token, and verl's batch of them."""
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu

    draw = torch.Generator().manual_seed(3)
    student = [-2 * torch.rand(a + b, generator=draw) for a, b in SHAPES]
    teacher = [-2 * torch.rand(a + b, generator=draw) for a, b in SHAPES]
    masks = [torch.ones(b, dtype=torch.int64) for _, b in SHAPES]
    masks[1][2:4] = 0  # an observation
    fields = {
        "prompts": nested([torch.zeros(a, dtype=torch.int64) for a, _ in SHAPES]),
        "responses": nested([torch.zeros(b, dtype=torch.int64) for _, b in SHAPES]),
        "response_mask": nested(masks),
        "teacher_logprobs": nested([one[:, None] for one in teacher]),
        "old_log_probs": nested([one[a - 1 : -1].clone() for one, (a, _) in zip(student, SHAPES, strict=True)]),
    }
    fields["advantages"] = nested([torch.zeros(b) for _, b in SHAPES])  # of the reward, which this loss leaves out
    data = TensorDict(fields, batch_size=[3])
    tokens = sum(int(mask.sum()) for mask in masks)
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=tokens, global_batch_size=3)
    return student, teacher, masks, data


def loss_of(mode, data, student):
    from omegaconf import OmegaConf
    from verl.trainer.distillation.losses import distillation_ppo_loss
    from verl.workers.config import DistillationConfig, DistillationLossConfig, FSDPActorConfig

    settings = DistillationLossConfig(
        loss_mode=mode, use_task_rewards=False, use_policy_gradient=mode == "k1", loss_max_clamp=10.0
    )
    distillation = DistillationConfig(enabled=False, distillation_loss=settings)
    actor = FSDPActorConfig(
        strategy="fsdp2", ppo_micro_batch_size_per_gpu=1, rollout_n=1, loss_agg_mode="token-mean", use_kl_loss=False,
        optim=OmegaConf.create({"lr": 1e-3}),
    )  # fmt: skip
    output = {"log_probs": nested(student)}
    return distillation_ppo_loss(actor, distillation, output, data)


@pytest.mark.parametrize("mode", RULES)
def test_losses_against_float64(batch, mode):
    student, teacher, masks, data = batch
    leaves = [one.clone().requires_grad_() for one in student]
    loss, metrics = loss_of(mode, data, leaves)
    loss.backward()
    total, count = 0.0, sum(int(mask.sum()) for mask in masks)
    for q, p, mask, leaf, (a, _) in zip(student, teacher, masks, leaves, SHAPES, strict=True):
        q64, p64, kept = (one.double().numpy() for one in (q[a - 1 : -1], p[a - 1 : -1], mask))
        each = RULES[mode](q64, p64)
        if mode == "k1":  # a reward of minus itself: the surrogate's value is that of the plain mean, at ratio 1
            slope = (q64 - p64) * kept / count
        else:
            slope = {"k2": q64 - p64, "k3": 1 - np.exp(p64 - q64), "abs": np.sign(q64 - p64)}[mode] * kept / count
        total += (each * kept).sum()
        expected = np.zeros(len(q))
        expected[a - 1 : -1] = slope
        assert leaf.grad.numpy() == pytest.approx(expected, abs=1e-6)
    assert float(loss.detach()) == pytest.approx(total / count, abs=1e-6)


def test_forward_kl_of_the_most_likely_tokens_against_float64():
    from types import SimpleNamespace

    from verl.trainer.distillation.fsdp.losses import compute_forward_kl_topk

    draw = np.random.default_rng(5)
    student, teacher = (draw.normal(size=(6, 11)) for _ in range(2))
    log_q, log_p = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (student, teacher))
    ids = np.argsort(-log_p, axis=-1)[:, :4]
    p, q = np.take_along_axis(log_p, ids, -1), np.take_along_axis(log_q, ids, -1)
    rows = [2, 4]
    got = compute_forward_kl_topk(
        student_logits=torch.tensor(student, dtype=torch.float32)[None],
        teacher_topk_log_probs=nested(list(torch.tensor(p, dtype=torch.float32).split(rows))),
        teacher_topk_ids=nested(list(torch.tensor(ids).split(rows))),
        config=SimpleNamespace(distillation_loss=SimpleNamespace(log_prob_min_clamp=-10.0, use_chunked_topk=False)),
        data_format="thd",
    )
    assert got["distillation_losses"][0].numpy() == pytest.approx((np.exp(p) * (p - q)).sum(-1), abs=1e-5)


# ---- before the start ------------------------------------------------------------------------------------------------


def test_the_preflight_of_a_distillation(check):
    from common.preflight.distillation import derived
    from common.preflight.trainer_mode import gpus_beside

    knobs = check(VARIANT="distill", TEACHER_MODEL_PATH="demo")
    assert knobs.errors == [] and knobs["DISTILL_LOSS"] == "k1" and gpus_beside(knobs) == 1
    assert derived(knobs) == {"USE_POLICY_GRADIENT": "true"}
    assert derived(check(VARIANT="distill", TEACHER_MODEL_PATH="demo", DISTILL_LOSS="k3")) == {
        "USE_POLICY_GRADIENT": "false"
    }
    plain = check()
    assert plain.errors == [] and gpus_beside(plain) == 0 and plain["TEACHER_GPUS"] == "0"


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"TEACHER_MODEL_PATH": ""}, "no teacher to learn from"),
        ({"TEACHER_MODEL_PATH": "/gone"}, "TEACHER_MODEL_PATH=/gone"),
        ({"TEMPERATURE": "0.7"}, "TEMPERATURE=0.7: the teacher's log-probabilities are those of temperature 1"),
        ({"TRAINER_MODE": "colocate"}, "TRAINER_MODE=colocate: the teacher scores"),
        ({"DISTILL_LOSS": "forward_kl_topk"}, "verl asks vLLM or SGLang"),
        ({"TEACHER_GPUS": "2"}, "TEACHER_GPUS=2: ROLLOUT_ENGINE=hf serves"),
        ({"VARIANT": "grpo"}, "only VARIANT=distill has a teacher"),
    ],
)
def test_what_a_distillation_refuses(check, knobs, words):
    assert words in only_error(check(**{"VARIANT": "distill", "TEACHER_MODEL_PATH": "demo", **knobs}))


def test_a_teacher_with_other_tokens_is_refused(check, tmp_path):
    """Ids that mean other words would be scored all the same, and teach nonsense without a word."""
    import shutil

    folder = tmp_path / "teacher"
    shutil.copytree(DEMO_MODEL_DIR, folder)
    read = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = read["model"]["vocab"]
    (one, a), (two, b) = list(vocabulary.items())[300:302]
    vocabulary[one], vocabulary[two] = b, a
    (folder / "tokenizer.json").write_text(json.dumps(read))
    words = only_error(check(VARIANT="distill", TEACHER_MODEL_PATH=str(folder)))
    assert "2 of the student's 512 tokens have another id" in words
