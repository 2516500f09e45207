"""The command of a train.sh for the engine that trains: Megatron's keys in the place of FSDP's.

    python -m common.preflight.engine_keys COMMAND...     prints it, each argument with a NUL after it

A train.sh writes its command down for FSDP. Megatron is verl's other base config (``model_engine=megatron``), whose
actor and critic lack some of these keys and have others in the place of some. Reads MODEL_PARALLEL of the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

ACTOR = "actor_rollout_ref.actor"
RENAMED = {
    f"{ACTOR}.fsdp_config.param_offload": f"{ACTOR}.megatron.param_offload",
    f"{ACTOR}.optim.lr_scheduler_type": f"{ACTOR}.optim.lr_decay_style",
    "critic.optim.lr_scheduler_type": "critic.optim.lr_decay_style",
}
LEFT_OUT = (  # of FSDP alone, or set for all models by train_engine/megatron.yaml
    f"{ACTOR}.fsdp_config.offload_policy",
    f"{ACTOR}.optim.optimizer_impl",
    f"{ACTOR}.optim.optimizer",
    f"{ACTOR}.optim.override_optimizer_config",
    f"{ACTOR}.ulysses_sequence_parallel_size",
    "actor_rollout_ref.model.override_config.attn_implementation",
    "critic.model.override_config.attn_implementation",
    "critic.fsdp.param_offload",
    "critic.fsdp.offload_policy",
    "critic.fsdp.ulysses_sequence_parallel_size",
)
OF_THE_KIT = {"grpo": (f"{ACTOR}.fsdp_config", "actor_rollout_ref.ref.fsdp_config")}  # its YAML files set keys there
OF_THE_KIT["ppo"] = (*OF_THE_KIT["grpo"], "critic.fsdp")
SIZES = ("tensor_model_parallel", "pipeline_model_parallel", "context_parallel", "expert_model_parallel")


def megatron(command: Sequence[str], algorithm: str, sizes: str) -> list[str]:
    """A command for Megatron.

    Args:
        command: As its train.sh writes it, for FSDP.
        algorithm: ``grpo`` or ``ppo``.
        sizes: ``MODEL_PARALLEL``, four numbers with an ``x`` between them.
    """
    first = 1 + max(number for number, part in enumerate(command) if part.startswith("--config-"))
    done = [*command[:first], "model_engine=megatron", "+train_engine=megatron"]
    own = {name for name in LEFT_OUT if algorithm == "ppo" or not name.startswith("critic.")}
    for part in command[first:]:
        key, _, value = part.partition("=")
        name = key.lstrip("+")
        if name in own:
            own.remove(name)  # the script's own comes first; the user's, behind it, is for Hydra to refuse
        else:
            done.append(f"{RENAMED[name]}={value}" if name in RENAMED else part)
    numbers = zip(SIZES, sizes.split("x"), strict=False)  # other than four: the preflight says so
    done[first + 2 : first + 2] = [f"{ACTOR}.megatron.{name}_size={number}" for name, number in numbers]
    done[first + 2 : first + 2] = [f"~{key}" for key in OF_THE_KIT[algorithm]]  # before what the user sets there
    return done


def main() -> None:
    """Print the command."""
    command = megatron(sys.argv[1:], os.environ["ALGORITHM"], os.environ["MODEL_PARALLEL"])
    sys.stdout.write("".join(f"{part}\0" for part in command))


if __name__ == "__main__":
    main()
