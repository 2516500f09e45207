"""Numbers to try after a failure: what the fix of `common.runner.known_failures` means for the knobs of this run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from common.plan.fit import FILL, SHARES
from common.plan.machine import GIB
from common.plan.memory import Setup, memory_of
from common.preference_losses import PAIR_LOSSES

GPU, HOST, CACHE = "The GPU ran out of memory", "The machine ran out of main memory", "vLLM got too little GPU memory"
TAKEN = "vLLM asked for more GPU memory than is free"
CAUSES = (GPU, HOST, CACHE, TAKEN)


def by_cause(knobs: Mapping[str, str], setup: Setup | None = None) -> dict[str, list[str]]:
    """`numbers_to_try` for each failure that has some, for run.json: beginning of the cause -> texts."""
    found = {cause: numbers_to_try(cause, knobs, setup) for cause in CAUSES}
    return {cause: texts for cause, texts in found.items() if texts}


def numbers_to_try(cause: str, knobs: Mapping[str, str], setup: Setup | None = None) -> list[str]:
    """Knobs with the value to try, the one that costs least first.

    Args:
        cause: As `common.runner.failures.diagnose` words it.
        knobs: Of the run, resolved.
        setup: Its memory plan, None where there is none; says what a change saves.
    """
    if cause.startswith(GPU):
        return _less_gpu(knobs, setup)
    if cause.startswith(TAKEN):
        return _less_cache(knobs)
    if cause.startswith(CACHE):
        return _more_cache(knobs)
    if cause.startswith(HOST):
        halves = [_half(knobs, name) for name in ("BATCH_SIZE", "ROLLOUT_N")]
        return [text for text in halves if text]
    return []


def _number(knobs: Mapping[str, str], name: str) -> float:
    try:
        return float(knobs.get(name, "0"))
    except ValueError:
        return 0.0


def _half(knobs: Mapping[str, str], name: str, least: float = 1) -> str | None:
    now = _number(knobs, name)
    return f"{name}={int(now) // 2} (now {int(now)})" if now // 2 >= max(least, 1) else None


def _longest(knobs: Mapping[str, str]) -> float:
    pair = 2 if knobs.get("LOSS_TYPE") in PAIR_LOSSES or "CENTER_COEF" in knobs else 1
    parts = _number(knobs, "MAX_PROMPT_LENGTH") + _number(knobs, "MAX_RESPONSE_LENGTH")
    return pair * (_number(knobs, "MAX_LENGTH") or parts) / max(1.0, _number(knobs, "SEQUENCE_PARALLEL"))


def _less_gpu(knobs: Mapping[str, str], setup: Setup | None) -> list[str]:
    found = []
    tokens = _half(knobs, "TOKENS_PER_GPU", _longest(knobs))
    if tokens:
        found.append(tokens + _saves(setup, tokens=setup.tokens // 2 if setup else 0))
    elif setup and (more := [size for size in setup.sequence_sizes if size > setup.sequence_parallel]):
        share = -(-setup.sequence // more[0])
        words = f"SEQUENCE_PARALLEL={more[0]} (now {setup.sequence_parallel}) with TOKENS_PER_GPU={share}"
        found.append(words + _saves(setup, sequence_parallel=more[0], tokens=share))
    found += _less_cache(knobs)
    generates = "ROLLOUT_ENGINE" in knobs
    full = ("full",) if knobs.get("TRAIN_ENGINE") != "fsdp" else ()
    steps = {"false": ("true",) * generates + full, "true": full}
    for offload in steps.get(knobs.get("OFFLOAD", ""), ()):
        found.append(f"OFFLOAD={offload} (now {knobs['OFFLOAD']})" + _saves(setup, offload=offload))
    if _number(knobs, "LORA_RANK") == 0:
        found.append("LORA_RANK=16 (now 0)" + _saves(setup, lora_rank=16))
    return found


def _less_cache(knobs: Mapping[str, str]) -> list[str]:
    share = _number(knobs, "GPU_MEMORY_UTILIZATION")
    if "ROLLOUT_ENGINE" not in knobs or share <= 0.2:
        return []
    return [f"GPU_MEMORY_UTILIZATION={share - 0.1:.2g} (now {share:g})"]


def _saves(setup: Setup | None, **changes: object) -> str:
    if setup is None:
        return ""
    saved = memory_of(setup).peak - memory_of(replace(setup, **changes)).peak
    return f", saves {saved / GIB:.0f} GiB a GPU" if saved > GIB / 2 else ""


def _more_cache(knobs: Mapping[str, str]) -> list[str]:
    share = _number(knobs, "GPU_MEMORY_UTILIZATION")
    found = []
    if 0 < share < FILL - 0.1:
        found.append(f"GPU_MEMORY_UTILIZATION={min(max(SHARES) + 0.1, share + 0.15):.2g} (now {share:g})")
    size, gpus = int(_number(knobs, "TENSOR_PARALLEL_SIZE")), int(_number(knobs, "N_GPUS"))
    if size and gpus % (2 * size) == 0:
        found.append(f"TENSOR_PARALLEL_SIZE={2 * size} (now {size})")
    answer = _half(knobs, "MAX_RESPONSE_LENGTH")
    return found + [answer] * bool(answer)
