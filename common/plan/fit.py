"""The largest settings that fit: tokens, offloading, tensor parallelism, the rollout engine's share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from common.plan.machine import Gpus
from common.plan.memory import (
    ENGINE_OWN,
    Memory,
    Setup,
    activations_per_token,
    kv_per_token,
    logits_per_token,
    memory_of,
)

MOST_TOKENS = 16384  # more hardly makes a step faster
FEW_TOKENS = 4096  # fewer make it slower; then rather offload
SEQUENCES = 8  # that the rollout engine's cache should hold at once, at the least
SHARES = [share / 100 for share in range(70, 10, -5)]
SPARE_CACHE = 2  # times what the answers of a step take: more only makes the engine start later
LARGE_LOGITS = 0.1  # of a GPU's memory; where they take more, making them in chunks is worth its time
LARGEST_SHARE = 0.8  # only where the engine has no room otherwise
FILL = 0.92  # of a GPU's memory that choices may fill; the estimate has an error
SURE = 1.1  # an estimate above this times the memory will not fit; between FILL and this it may


@dataclass(frozen=True)
class Fit:
    """Settings and what they need.

    Args:
        setup: With every choice made.
        memory: By part.
        fits: ``yes``, ``tight`` (within the error of the estimate) or ``no``.
    """

    setup: Setup
    memory: Memory
    fits: str


def judge(setup: Setup) -> Fit:
    """Whether given settings fit."""
    memory = memory_of(setup)
    need = memory.peak / setup.gpus.memory
    if setup.rollout and memory.kv_tokens < setup.sequence:
        need = max(need, SURE + 1)  # not one answer finds room
    return Fit(setup, memory, "yes" if need <= FILL + 0.02 else "tight" if need <= SURE else "no")


def choose(setup: Setup, fixed: frozenset[str] = frozenset()) -> Fit:
    """Choose what is not fixed: the fastest that fits, else what comes nearest.

    Args:
        setup: Its values count where they are fixed; the model, the GPUs and the lengths always do.
        fixed: Among ``offload``, ``tokens``, ``tensor_parallel``, ``utilization``, ``fused``,
            ``sequence_parallel``.

    Returns:
        The first that fits of: states on the GPU, states offloaded while the engine generates, all on the host. Logits
        in chunks where whole ones would take more than a tenth of the memory, a sequence on several GPUs where nothing
        fits that holds it on one.
    """
    found = []
    for size in (setup.sequence_parallel,) if "sequence_parallel" in fixed else setup.sequence_sizes:
        one = replace(setup, sequence_parallel=size)
        if "tokens" not in fixed or one.tokens >= one.share:
            found.append(_chunks(one, fixed))
            if found[-1].fits == "yes":
                return found[-1]
    tight = (fit for fit in found if fit.fits == "tight")
    return next(tight, None) or (found or [_chunks(setup, fixed)])[0]


def _chunks(setup: Setup, fixed: frozenset[str]) -> Fit:
    if "fused" in fixed or not setup.fusable:
        return _choose(setup, fixed)
    plain = _choose(replace(setup, fused=False), fixed)
    if plain.memory.training["logits"] <= LARGE_LOGITS * setup.gpus.memory:
        return plain
    return _choose(replace(setup, fused=True), fixed)


def _choose(setup: Setup, fixed: frozenset[str]) -> Fit:
    found = [judge(one) for one in _candidates(setup, fixed)]
    for word in ("yes", "tight"):
        roomy = [fit for fit in found if fit.fits == word and fit.setup.tokens >= min(FEW_TOKENS, 2 * setup.share)]
        if roomy or any(fit.fits == word for fit in found):
            return next(iter(roomy), next(fit for fit in found if fit.fits == word))
    return min(found, key=lambda fit: fit.memory.peak)


def _candidates(setup: Setup, fixed: frozenset[str]) -> Iterator[Setup]:
    # Between the phases of RL offloading frees the GPU; SFT and DPO have one phase only, where it frees nothing.
    kinds = ("false",) + ("true",) * setup.rollout + ("full",) * setup.keeps_away
    for offload in (setup.offload,) if "offload" in fixed else kinds:
        one = replace(setup, offload=offload)
        if setup.rollout:
            one = _with_engine(one, fixed)
        yield one if "tokens" in fixed else replace(one, tokens=_tokens(one))


def _tokens(setup: Setup) -> int:
    """The most tokens that fit, in whole 1024s, at least one longest sequence, or a GPU's share of it."""
    bare = sum(memory_of(replace(setup, tokens=0)).training.values())
    each = activations_per_token(setup.model, setup.checkpointing)
    each += 0 if setup.fused else logits_per_token(setup.model, setup.flash)
    each /= setup.split.tensor if setup.split else 1
    room = int((FILL * setup.gpus.memory - bare) / each) // 1024 * 1024
    return max(setup.share, min(room, max(MOST_TOKENS, setup.share)))


def sequence_sizes(heads: int, kv_heads: int, gpus: int) -> tuple[int, ...]:
    """Numbers of GPUs that can share a sequence: what verl asserts of heads and GPUs (`apply_monkey_patch`)."""
    fits = (size for size in range(1, gpus + 1) if gpus % size == 0 and heads % size == 0)
    return tuple(size for size in fits if kv_heads % size == 0 or size % kv_heads == 0)


def _with_engine(setup: Setup, fixed: frozenset[str]) -> Setup:
    """The smallest tensor parallel size, with the share that it leaves, whose cache holds enough sequences."""
    sizes = [setup.tensor_parallel] if "tensor_parallel" in fixed else parallel_sizes(setup)
    best = setup
    for size in sizes:
        one = replace(setup, tensor_parallel=size)
        for share in [setup.utilization] if "utilization" in fixed else _shares(one):
            one = replace(one, utilization=share)
            memory = memory_of(replace(one, tokens=0))
            if sum(memory.generating.values()) <= FILL * setup.gpus.memory:
                break
        best = one
        if memory.kv_tokens >= SEQUENCES * setup.sequence:
            break
    if memory.kv_tokens < setup.sequence and "utilization" not in fixed:
        best = replace(best, utilization=LARGEST_SHARE)
    return best


def _shares(setup: Setup) -> list[float]:
    """Shares of a GPU to try, the largest first; none much above what the answers of a step can fill.

    A cache that is never filled costs time: vLLM makes an object for each 16 tokens of it, 100 million tokens for the
    demo's model on a large card.
    """
    if not setup.answers:
        return SHARES
    useful = share_needed(setup, SPARE_CACHE * setup.answers * setup.tensor_parallel)
    return [share for share in SHARES if share <= useful + 0.05] or SHARES[-1:]


def parallel_sizes(setup: Setup) -> list[int]:
    """Tensor parallel sizes that divide the GPUs of a node and the attention heads, which vLLM asks for."""
    gpus, heads = setup.gpus.per_node, setup.model.heads
    return [size for size in range(1, gpus + 1) if gpus % size == 0 and heads % size == 0]


def ways_out(fit: Fit) -> list[str]:
    """What would fit instead, in words, the least change first."""
    setup, found = fit.setup, []
    if not setup.lora_rank:
        lora = choose(replace(setup, lora_rank=16, reference=False))
        if lora.fits == "yes":
            found.append("LORA_RANK=16" + (f" with OFFLOAD={lora.setup.offload}" * (lora.setup.offload != "false")))
    if setup.sequence > 2048:
        short = choose(replace(setup, sequence=2048))
        if short.fits == "yes":
            found.append("lengths of 2048 tokens in all")
    for count in (2, 4, 8, 16, 32, 64):
        if count <= setup.gpus.count:
            continue
        per_node = min(8, max(count, setup.gpus.per_node))
        more = choose(replace(setup, gpus=Gpus(per_node, max(1, count // per_node), setup.gpus.memory)))
        if more.fits == "yes":
            found.append(f"{count} of these GPUs")
            break
    return found


def share_needed(setup: Setup, sequences: int) -> float:
    """Share of a GPU that a rollout engine needs for its weights and a cache of some longest sequences."""
    cache = sequences * setup.sequence * kv_per_token(setup.model, setup.tensor_parallel)
    weights = 2 * setup.model.parameters / setup.tensor_parallel
    return (weights + cache + ENGINE_OWN) / setup.gpus.memory
