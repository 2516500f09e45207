"""What a run needs in each process of verl: extension points filled, functions replaced."""

from __future__ import annotations

import importlib
from collections.abc import Collection

from common.verl_ext import queue_guard
from common.verl_ext.table import replace

# Modules that fill an extension point of verl, by the part of a run that needs them; imported in this order.
PLUGINS = {
    "cpu": ("common.cpu_backend.engine",),
    "hf": ("common.hf_engine.rollout",),
    "varlen": ("common.hf_engine.varlen_attention",),
    "tools": ("common.verl_ext.tool_loop",),
    "environment": ("common.verl_ext.environment_loop",),
    "remax": ("common.verl_ext.remax",),
    "user": ("common.verl_ext.user",),
}
PARTS_OF = {
    "sft": ("supervised",),
    "dpo": ("supervised",),
    "reward_model": ("supervised", "ppo"),  # a value model, as PPO's critic is
    "grpo": ("rl",),
    "gspo": ("rl",),
    "ppo": ("rl", "ppo"),
}


def load(algorithm: str, seed: int, parts: Collection[str] = ()) -> None:
    """Make this process ready for a run, while verl is imported.

    Args:
        algorithm: ``sft``, ``dpo``, ``reward_model``, ``grpo``, ``gspo`` or ``ppo``.
        seed: Of the run.
        parts: Other parts of the run: ``cpu`` (the device), ``hf`` (the rollout engine), ``hf_reward`` (its reward
            model), ``vllm_cpu`` (vLLM without a GPU), ``varlen`` or ``padded`` (attention), ``tools``, ``environment``,
            ``remax``, ``user`` (``ALGORITHM_PATH``), ``separate`` (``TRAINER_MODE``).
    """
    if "rl" in PARTS_OF.get(algorithm, ()):
        queue_guard.start()
    if "cpu" in parts:  # before all else: modules of verl ask for the device while they are imported
        importlib.import_module("common.cpu_backend.platform")
    apply(algorithm, seed, parts)
    for part, modules in PLUGINS.items():
        for module in modules if part in parts else ():
            importlib.import_module(module)


def apply(algorithm: str, seed: int, parts: Collection[str] = ()) -> None:
    """Replace what a run needs replaced; arguments as of `load`."""
    replace({"all", *PARTS_OF.get(algorithm, ()), *parts}, seed)
