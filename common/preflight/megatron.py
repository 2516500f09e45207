"""TRAIN_ENGINE=megatron: what it needs, and how the GPUs share a model. Composed and planned here, never run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from common.plan.fit import Fit
from common.plan.megatron import Split, problem_of, splits
from common.plan.memory import Setup
from common.preflight.knobs import Knobs
from common.preflight.machine import Machine, has_package

NAME = "megatron"
ALGORITHMS = ("grpo", "ppo")
PACKAGES = ("megatron", "transformer_engine")  # megatron.core and megatron.bridge are of the first
UNPROVEN = "the kit composes and checks Megatron's config and was never run with it"


def wanted(knobs: Knobs) -> bool:
    """Whether Megatron trains; it does where the kit has it."""
    return knobs["TRAIN_ENGINE"] == NAME and knobs.algorithm in ALGORITHMS


def check(knobs: Knobs, machine: Machine) -> None:
    """Algorithm, device, packages and the knobs that are of the other engines; needs the device."""
    if not wanted(knobs):
        knobs.resolve("MODEL_PARALLEL", Split(), "TRAIN_ENGINE=megatron has it")
        if knobs["TRAIN_ENGINE"] == NAME:
            knobs.error("TRAIN_ENGINE", f"the kit has it for {' and '.join(ALGORITHMS)}", "set fsdp2")
        elif knobs.values.get("MODEL_PARALLEL", str(Split())) != str(Split()):
            knobs.error("MODEL_PARALLEL", f"TRAIN_ENGINE={knobs['TRAIN_ENGINE']} has it not", "set auto, or megatron")
        return
    knobs.warn("TRAIN_ENGINE", UNPROVEN, "try a few steps first, with SAVE_FREQ=1 and a resume")
    missing = [name for name in PACKAGES if not has_package(name)]
    if knobs["DEVICE"] == "cpu":
        knobs.error("TRAIN_ENGINE", "needs GPUs", "set fsdp2")
    elif missing and not machine.planned:
        knobs.error(
            "TRAIN_ENGINE",
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            "run in the image of docker/Dockerfile, whose base has them, or set fsdp2",
        )
    for name, value, why in _unfit(knobs):
        knobs.error(name, f"TRAIN_ENGINE=megatron {why}", f"set {value}, or TRAIN_ENGINE=fsdp2")


def _unfit(knobs: Knobs) -> list[tuple[str, str, str]]:
    """Knobs that verl or the kit has for FSDP alone: name, what to set, why."""
    rules = (
        ("LORA_RANK", ("0",), "names its adapters otherwise, which the kit does not do"),
        ("OFFLOAD", ("true", "false", "auto"), "cannot keep all states on the host"),
        ("SEQUENCE_PARALLEL", ("1", "auto"), "shares sequences by the third number of MODEL_PARALLEL"),
        ("FUSED_KERNELS", ("false", "auto"), "has another chunked head, which was not compared"),
        ("TRAINER_MODE", ("sync",), "was composed with it alone"),
    )
    return [(name, right[0], why) for name, right, why in rules if knobs.values.get(name, right[0]) not in right]


def choose_split(knobs: Knobs, setup: Setup, plan: Callable[[Setup], Fit]) -> Fit:
    """Plan with Megatron; chooses MODEL_PARALLEL where it is ``auto``: the fewest GPUs for a copy that fit.

    Args:
        knobs: With the other choices.
        setup: Of the run.
        plan: Chooses the rest for a setup.
    """
    given = None
    if not knobs.is_auto("MODEL_PARALLEL"):
        try:
            given = Split.parse(knobs["MODEL_PARALLEL"])
            problem = problem_of(given, setup.model, setup.gpus)
        except ValueError as error:
            problem = str(error)
        if problem:
            knobs.error("MODEL_PARALLEL", problem, "set auto, which takes the fewest GPUs for a copy that fit")
    possible = [given] if given else list(splits(setup.model, setup.gpus))
    fits = []
    for split in possible:
        fits.append(plan(replace(setup, split=split, keeps_away=False, fusable=False, sequence_sizes=(1,))))
        if fits[-1].fits == "yes":
            break
    best = next((fit for word in ("yes", "tight") for fit in fits if fit.fits == word), None)
    best = best or min(fits, key=lambda fit: fit.memory.peak)
    chosen = best.setup.split
    knobs.resolve("MODEL_PARALLEL", chosen, f"{chosen.gpus} of {setup.gpus.count} GPUs hold a copy")
    return best
