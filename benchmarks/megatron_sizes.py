"""What the kit says of MODEL_PARALLEL against Megatron-Core's own config classes, which need no GPU.

    pip install --no-deps --target /tmp/mcore megatron-core
    PYTHONPATH=/tmp/mcore .venv/bin/python benchmarks/megatron_sizes.py

Every split of 16 GPUs by powers of two and by 3, for several models; then the optimiser that verl makes from the
composed config of `TRAIN_ENGINE=megatron ./grpo/train.sh`.
"""

import itertools
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.plan.machine import GIB, Gpus  # noqa: E402
from common.plan.megatron import Split, experts_of, problem_of  # noqa: E402
from common.plan.weights import Model, read_weights  # noqa: E402
from common.preflight import checks, command  # noqa: E402
from common.preflight.knobs import read_knobs  # noqa: E402
from common.preflight.machine import planned_machine  # noqa: E402
from tests.published_models import MODELS  # noqa: E402

NAMES = ("Qwen2.5-0.5B", "Qwen2.5-7B", "Qwen2.5-72B", "Qwen3-8B", "Qwen3-30B-A3B")
GPUS = Gpus(8, 2, 80 * GIB)
# What its layers assert later and the config class does not (transformer_block.py, moe/moe_layer.py)
LATER = ("stages", "experts do not divide")
OF_THE_MODEL = ("attention heads", "key-value heads", "no experts")  # the rest is asked of the process groups


def megatrons_word(model: Model, split: Split) -> str | None:
    """Why Megatron-Core refuses a config, None when it takes it."""
    import torch
    from megatron.core.transformer.transformer_config import TransformerConfig

    sizes: dict[str, Any] = {
        "tensor_model_parallel_size": split.tensor,
        "pipeline_model_parallel_size": split.pipeline,
        "context_parallel_size": split.context,
        "expert_model_parallel_size": split.expert,
        "sequence_parallel": split.tensor > 1,
        "pipeline_dtype": torch.bfloat16,
        "bf16": True,
        "num_moe_experts": experts_of(model) or None,
        "add_bias_linear": False,
    }
    try:
        TransformerConfig(
            num_layers=model.layers,
            hidden_size=model.hidden,
            num_attention_heads=model.heads,
            num_query_groups=model.kv_heads,
            kv_channels=model.head_dim,
            recompute_granularity="full",
            recompute_method="uniform",
            recompute_num_layers=1,
            **sizes,
        )
    except (ValueError, AssertionError) as error:
        return str(error)
    return None


def compare() -> tuple[Counter[str], list[str]]:
    """Of how many splits who said what, and where the two disagree about what is the model's own."""
    numbers, off = (1, 2, 3, 4, 8, 16), []
    seen: Counter[str] = Counter()
    for name in NAMES:
        model = read_weights(MODELS[name][0])
        for sizes in itertools.product(numbers, numbers, (1, 2), (1, 2, 3, 8)):
            split = Split(*sizes)
            ours, theirs = problem_of(split, model, GPUS), megatrons_word(model, split)
            about_model = ours is not None and any(word in ours for word in OF_THE_MODEL)
            if theirs and not ours or about_model and not theirs:
                off.append(f"{name} {split}: the kit {ours}; Megatron {theirs}")
            later = ours is not None and any(word in ours for word in LATER)
            seen[
                "refused by both" if ours and theirs else "asserted later" if later else "by GPUs" if ours else "taken"
            ] += 1
    return seen, off


def optimizer() -> Any:
    """Megatron-Core's optimiser config from a composed launch."""
    from verl.utils.config import omega_conf_to_dataclass
    from verl.utils.megatron.optimizer import init_megatron_optim_config

    knobs = read_knobs("grpo", {"TRAIN_ENGINE": "megatron", "MODEL_PARALLEL": "2x2x1x1"})
    checks.prepare(knobs, planned_machine(GPUS), everything=False)
    config = command.compose(knobs, Path("run"))
    return init_megatron_optim_config(omega_conf_to_dataclass(config.actor_rollout_ref.actor).optim)


def main() -> int:
    """Print what was found; exit status 1 where the two disagree."""
    import megatron.core

    seen, off = compare()
    words = ", ".join(f"{count} {what}" for what, count in sorted(seen.items()))
    print(f"Megatron-Core {megatron.core.__version__}: {seen.total()} splits of {len(NAMES)} models: {words}")
    print(f"{len(off)} disagreements")
    print(*off[:20], sep="\n")
    print(optimizer())
    return int(bool(off))


if __name__ == "__main__":
    sys.exit(main())
