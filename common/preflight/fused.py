"""FUSED_KERNELS: log-probabilities and entropy from chunks of tokens; whole logits are never in memory.

verl's chunked head takes ``lm_head.weight`` and nothing else (models/transformers/dense_common.py): a bias,
a scale, a soft cap or an adapter of the head would be left out silently. So it is for models without these only.
"""

from __future__ import annotations

from common.preflight.config_check import RL, ConfigCheck
from common.preflight.findings import Problem
from common.preflight.knobs import Knobs
from common.preflight.model import ModelInfo
from common.small_files import read_json_object

# Families whose log-probabilities, entropies and gradients in chunks were compared with those from whole logits
# (tests/unit/test_fused.py).
# fmt: off
FAMILIES = (
    "apertus", "ernie4_5", "exaone4", "gemma", "glm", "glm4", "glm4_moe", "helium", "hunyuan_v1_dense", "llama",
    "mistral", "mixtral", "olmo", "olmo2", "olmo3", "olmoe", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
    "seed_oss", "smollm3", "stablelm", "starcoder2",
)
# fmt: on
BACKENDS = ("torch", "triton")
HEAD = "lm_head"


def unfit(knobs: Knobs, model: ModelInfo | None) -> Problem | None:
    """Why logits of this run cannot be made in chunks, None when they can."""
    family = model.config.get("model_type", "an unknown family") if model else None
    if family not in FAMILIES:
        name = family if model and model.config else "a model that is not on this machine"
        return Problem(f"verl's chunked head is not known to be right for {name}", "set auto or false")
    if knobs.number("LORA_RANK") and HEAD in _adapted(knobs):
        return Problem(
            "verl's chunked head leaves out an adapter of lm_head", "take lm_head off LORA_TARGETS, or set false"
        )
    return None


def _adapted(knobs: Knobs) -> set[str]:
    """Last names of the layers that an adapter changes: of LORA_TARGETS, and of the adapter to start from."""
    texts = knobs.values.get("LORA_TARGETS", "").split(",")
    folder = knobs.values.get("LORA_ADAPTER_PATH")
    if folder:
        try:
            adapter = read_json_object(f"{folder}/adapter_config.json")
        except (ValueError, OSError):  # said by check_adapter
            adapter = {}
        for name in ("target_modules", "modules_to_save"):
            found = adapter.get(name) or []
            texts += [found] if isinstance(found, str) else [str(one) for one in found]
    return {text.strip().rpartition(".")[2] for text in texts}


def check_fused(knobs: Knobs, model: ModelInfo | None) -> None:
    """Refuse what would train on other probabilities; choose ``false`` where the plan must not choose ``true``."""
    if "FUSED_KERNELS" not in knobs:
        return
    problem = unfit(knobs, model)
    if problem:
        knobs.resolve("FUSED_KERNELS", "false", problem.text)
    if problem and model and knobs["FUSED_KERNELS"] == "true":
        knobs.error("FUSED_KERNELS", problem)


def check_fused_config(check: ConfigCheck) -> None:
    """What verl cannot do together, in the composed config."""
    if check.get("critic.model.use_fused_kernels"):
        check.error("critic.model.use_fused_kernels", "a critic has no logits", "remove it")
    model = f"{RL}.model" if check.get(RL) is not None else "model"
    key = f"{model}.use_fused_kernels"
    if not check.get(key):
        return
    backend = check.get(f"{model}.fused_kernel_options.impl_backend")
    if backend not in BACKENDS:
        check.error(
            f"{model}.fused_kernel_options.impl_backend",
            "is not a backend that verl surely supports",
            "write torch or triton",
        )
    elif backend == "triton" and check.get("trainer.device") == "cpu":
        check.error(f"{model}.fused_kernel_options.impl_backend", "needs a GPU", "write torch")
    if check.get(f"{RL}.actor.calculate_sum_pi_squared"):
        check.error(
            f"{RL}.actor.calculate_sum_pi_squared", f"needs whole logits, and {check.name(key)} is true", "set one"
        )
