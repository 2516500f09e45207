"""The memory plan of a run: what its knobs need, and the knobs that follow from it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from common.attention import PADDED
from common.plan.fit import Fit, choose, sequence_sizes, ways_out
from common.plan.machine import GIB, Gpus
from common.plan.memory import Setup
from common.plan.weights import Model, read_weights
from common.preflight import megatron
from common.preflight.auto import VARLEN_FAMILIES
from common.preflight.fused import unfit
from common.preflight.knobs import SUPERVISED, Knobs
from common.preflight.machine import Machine
from common.preflight.model import ModelInfo, read_model
from common.preflight.resolved import REWARD_SHARE

KNOBS = {
    "OFFLOAD": "offload",
    "TOKENS_PER_GPU": "tokens",
    "TENSOR_PARALLEL_SIZE": "tensor_parallel",
    "GPU_MEMORY_UTILIZATION": "utilization",
    "FUSED_KERNELS": "fused",
    "SEQUENCE_PARALLEL": "sequence_parallel",
}
HOLDS = {"yes": "fits", "tight": "may just fit", "no": "does not fit"}


def plan_run(knobs: Knobs, model: ModelInfo | None, machine: Machine, sequence: int) -> Fit | None:
    """Plan the memory, choose the knobs that are ``auto``, and say when it will not fit.

    Args:
        knobs: Are resolved; hardware, lengths and batch are by now.
        model: Its config decides.
        machine: Memory of GPUs and host.
        sequence: Tokens that must be in one forward pass.

    Returns:
        The plan, None on the CPU or when the model or the GPUs are not known.
    """
    setup = setup_of(knobs, model, machine, sequence)
    if setup is None:
        return None
    fixed = frozenset(field for name, field in KNOBS.items() if name in knobs and not knobs.is_auto(name))
    choices = partial(choose, fixed=fixed)
    fit = megatron.choose_split(knobs, setup, choices) if megatron.wanted(knobs) else choices(setup)
    for name, field in KNOBS.items():
        if name in knobs:
            knobs.resolve(name, as_knob(getattr(fit.setup, field)), reason_of(field, fit))
    _verdict(knobs, fit, machine)
    return fit


def setup_of(knobs: Knobs, model: ModelInfo | None, machine: Machine, sequence: int) -> Setup | None:
    """What the plan needs to know, from the knobs; a knob that is ``auto`` gets a value that is replaced."""
    if knobs["DEVICE"] == "cpu" or not machine.gpu_memory or model is None or not model.config:
        return None
    try:
        weights = read_weights(model.config)
        critic = _critic(knobs, weights)
    except ValueError as error:
        knobs.warn("", f"no memory plan: {error}")
        return None
    per_node, nodes = max(1, knobs.number("N_GPUS")), max(1, knobs.number("NNODES"))
    gpus = Gpus(per_node, nodes, min(machine.gpu_memory), machine.network)
    rollout = knobs.algorithm not in SUPERVISED
    rank = knobs.number("LORA_RANK")
    return Setup(
        weights,
        gpus,
        tokens=knobs.number("TOKENS_PER_GPU"),
        sequence=sequence,
        rollout=rollout,
        offload=knobs["OFFLOAD"] if not knobs.is_auto("OFFLOAD") else "false",
        tensor_parallel=knobs.number("TENSOR_PARALLEL_SIZE") or 1,
        utilization=_share(knobs),
        lora_rank=rank,
        optimizer=knobs["OPTIMIZER"],
        reference=not rank and _has_reference(knobs),
        critic=critic,
        reward_share=REWARD_SHARE if _shares_with_reward_model(knobs) else 0.0,
        answers=_answers(knobs, gpus) if rollout else 0,
        flash=knobs["ATTENTION"] == "flash_attention_2",
        keeps_away=knobs["TRAIN_ENGINE"] == "fsdp2",
        fused=knobs.values.get("FUSED_KERNELS") == "true",
        fusable=unfit(knobs, model) is None,
        sequence_parallel=knobs.number("SEQUENCE_PARALLEL") or 1,
        sequence_sizes=_sequence_sizes(knobs, weights, gpus),
    )


def _sequence_sizes(knobs: Knobs, model: Model, gpus: Gpus) -> tuple[int, ...]:
    """GPUs that may share a sequence; between machines the exchange in each layer would be slow."""
    known = knobs.model is not None and knobs.model.config.get("model_type") in VARLEN_FAMILIES
    packs = "SEQUENCE_PARALLEL" in knobs and knobs["ATTENTION"] not in PADDED and known
    return sequence_sizes(model.heads, model.kv_heads, gpus.per_node) if packs else (1,)


def as_knob(value: object) -> str:
    """A choice of the plan as a knob holds it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _has_reference(knobs: Knobs) -> bool:
    """Whether a second copy of the model is asked for log-probabilities: for a KL, or for DPO that has no table."""
    if knobs.algorithm in SUPERVISED:
        return knobs.values.get("REFERENCE") == "model"
    return any(knobs.decimal(name) for name in ("KL_LOSS_COEF", "KL_COEF"))


def _shares_with_reward_model(knobs: Knobs) -> bool:
    """Whether a reward model is served on the GPUs that train."""
    return knobs.values.get("REWARD") == "model" and not knobs.number("REWARD_MODEL_GPUS")


def _answers(knobs: Knobs, gpus: Gpus) -> int:
    """Answers of a training step for each GPU."""
    return -(-knobs.number("BATCH_SIZE") * max(1, knobs.number("ROLLOUT_N")) // gpus.count)


def _share(knobs: Knobs) -> float:
    return knobs.decimal("GPU_MEMORY_UTILIZATION") or 0.5


def _critic(knobs: Knobs, policy: Model) -> Model | None:
    if "CRITIC_MODEL_PATH" not in knobs:
        return None
    path = knobs["CRITIC_MODEL_PATH"]
    if path in ("", "auto", "demo", knobs["MODEL_PATH"]) or not Path(path).is_dir():
        return policy
    return read_weights(read_model(path).config)


def reason_of(field: str, fit: Fit) -> str:
    """Why the plan has chosen a value, in words."""
    memory, setup = fit.memory, fit.setup
    states = sum(memory.training.get(name, 0) for name in ("weights", "gradients", "optimizer", "critic"))
    size = f"{setup.gpus.memory / GIB:.0f} GiB a GPU"
    if field == "offload":
        if setup.offload == "full":
            return f"weights, gradients and optimiser do not fit next to the rest in {size}: the host keeps them"
        return f"weights, gradients and optimiser take {states / GIB:.0f} of {size}"
    if field == "tokens":
        each = (memory.training["activations"] + memory.training["logits"]) / max(1, setup.tokens) / 2**20
        return f"{each:.1f} MiB a token; training takes {sum(memory.training.values()) / GIB:.0f} of {size}"
    if field == "fused":
        logits, have = memory.training["logits"] / GIB, setup.gpus.memory / GIB
        if setup.fused:
            return f"whole logits would take more than a tenth of {have:.0f} GiB; in chunks about {logits:.1f} GiB"
        return f"logits take {logits:.1f} of {have:.0f} GiB"
    if field == "sequence_parallel":
        if setup.sequence_parallel == 1:
            return f"a sequence of {setup.sequence:,} tokens has room on one GPU"
        return (
            f"{setup.sequence:,} tokens have no room on one GPU: {setup.share:,} on each of {setup.sequence_parallel}"
        )
    if field == "tensor_parallel":
        weights = 2 * setup.model.parameters / GIB
        return f"{weights:.0f} GiB of bfloat16 weights and a cache of {memory.kv_tokens:,} tokens"
    return f"leaves {(1 - setup.utilization) * setup.gpus.memory / GIB:.0f} GiB for what the trainer keeps on the GPU"


def _verdict(knobs: Knobs, fit: Fit, machine: Machine) -> None:
    setup, memory = fit.setup, fit.memory
    need, have = memory.peak / GIB, setup.gpus.memory / GIB
    if fit.fits != "yes":
        out = ways_out(fit)
        fix = f"what would: {', or '.join(out)}" if out else "take a smaller model, or more GPUs"
        what = f"needs about {need:.0f} GiB on each GPU, there are {have:.0f}"
        if setup.rollout and memory.kv_tokens < setup.sequence:
            what = f"the rollout engine's cache has no room for one answer of {setup.sequence:,} tokens"
        (knobs.error if fit.fits == "no" else knobs.warn)("MODEL_PATH", f"{HOLDS[fit.fits]}: {what}", fix)
    host = sum(memory.host.values())
    if host > machine.memory and not machine.planned:
        knobs.warn(
            "OFFLOAD",
            f"the run needs about {host / GIB:.0f} GiB of host memory, {machine.memory / GIB:.0f} GiB are free",
            "use LORA_RANK=16 or more GPUs, or free some",
        )
