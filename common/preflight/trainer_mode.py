"""When answers are generated: between updates (``sync``), over several steps (``colocate``), meanwhile (``separate``).

The three are verl's own trainers (verl/trainer/ppo/v1). Its rules for them are in ``config_async.py``.
"""

from __future__ import annotations

from common.preflight.knobs import Knobs
from common.preflight.machine import Machine, has_package

SEPARATE = "separate"
V1_MODES = {"sync": "sync", "colocate": "colocate_async", SEPARATE: "separate_async"}


def is_separate(knobs: Knobs) -> bool:
    """Whether some GPUs only answer."""
    return knobs.values.get("TRAINER_MODE") == SEPARATE


def gpus_beside(knobs: Knobs) -> int:
    """GPUs that do not train: those of a reward model and those that only answer."""
    reward = knobs.number("REWARD_MODEL_GPUS") if knobs.values.get("REWARD") == "model" else 0
    return reward + (knobs.number("ROLLOUT_GPUS") if is_separate(knobs) else 0)


def resolve_rollout_gpus(knobs: Knobs, gpus: int) -> None:
    """Choose how many GPUs only answer, of those that are visible; before ``N_GPUS`` takes the rest."""
    if not is_separate(knobs):
        return
    if knobs["DEVICE"] == "cpu":
        knobs.resolve("ROLLOUT_GPUS", 1, "a process that answers while another trains")
        return
    left, training = gpus - gpus_beside(knobs), knobs.number("N_GPUS")
    whole = max(1, knobs.number("TENSOR_PARALLEL_SIZE"))
    count = left - training if training else left // 2
    reason = "those that N_GPUS leaves" if training else "half of the GPUs"
    knobs.resolve("ROLLOUT_GPUS", max(whole, count - count % whole), reason)


def share_gpus(knobs: Knobs) -> None:
    """Without GPUs that only answer, those that train do; needs ``N_GPUS``."""
    if "TRAINER_MODE" not in knobs or is_separate(knobs):
        return
    knobs.resolve("ROLLOUT_GPUS", knobs["N_GPUS"], "those that train answer too")
    if knobs["ROLLOUT_GPUS"] != knobs["N_GPUS"]:
        mode = knobs["TRAINER_MODE"]
        knobs.error(
            "ROLLOUT_GPUS", f"TRAINER_MODE={mode} has no GPUs that only answer", "leave it auto, or set separate"
        )


def check_mode(knobs: Knobs, machine: Machine) -> None:
    """What a mode needs of this machine."""
    mode, on_cpu = knobs.values.get("TRAINER_MODE", "sync"), knobs["DEVICE"] == "cpu"
    if mode == "sync":
        return
    if on_cpu and knobs["ROLLOUT_ENGINE"] != "hf":
        knobs.error(
            "TRAINER_MODE", "on the CPU it was tried with ROLLOUT_ENGINE=hf only", "set ROLLOUT_ENGINE=hf, or sync"
        )
    if mode == SEPARATE and knobs.number("NNODES") > 1:
        knobs.error("TRAINER_MODE", "takes the GPUs that only answer from one node", "set colocate, or NNODES=1")
    if mode != SEPARATE or on_cpu:
        return
    training, own, there = knobs.number("N_GPUS"), gpus_beside(knobs), len(machine.gpu_memory)
    if training <= there < training + own:
        knobs.error(
            "ROLLOUT_GPUS",
            f"with N_GPUS={training} and the reward model's that is {training + own} GPUs and {there} are visible",
            "lower one of them, or set TRAINER_MODE=colocate, which needs one GPU",
        )
    if not machine.planned and not has_package("cupy"):
        knobs.error(
            "TRAINER_MODE",
            "verl carries weights to other GPUs with cupy, which is not installed",
            "run .venv/bin/pip install cupy-cuda13x (cupy-cuda12x for a CUDA 12 driver), or set colocate",
        )


def derived(knobs: Knobs) -> dict[str, str]:
    """The variables that follow, see ``derived.py``."""
    mini = knobs.number("MINI_BATCH_SIZE")
    backend = "gloo" if knobs["DEVICE"] == "cpu" else "nccl"
    return {
        "VERL_TRAINER_MODE": V1_MODES.get(knobs["TRAINER_MODE"], "sync"),
        "PARAMETER_SYNC_STEP": str(max(1, knobs.number("BATCH_SIZE") // mini if mini else 1)),
        "CHECKPOINT_BACKEND": backend if is_separate(knobs) else "naive",
    }
