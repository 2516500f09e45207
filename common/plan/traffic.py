"""What passes between machines in one step, and how long it takes: gathers and sums of FSDP, and the new weights.

Of a gather of W bytes over all GPUs each machine takes in nearly W, whatever the number of machines (a ring: NCCL's
doc/PERFORMANCE.md, all-gather and reduce-scatter move (n - 1) / n). So a pass costs each machine the same traffic with
2 machines as with 64, and its share of the work shrinks: the more machines, the larger the network's part.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.plan.fit import Fit
from common.plan.memory import COMPUTE, GRADIENT, MASTER

USABLE = 0.8  # of a network's rate that large messages reach


@dataclass(frozen=True)
class Step:
    """What a step does.

    Args:
        rows: Prompts, or conversations.
        answers: To each; 1 without generation.
        tokens: Of a usual prompt and answer together.
        updates: Of the optimiser.
    """

    rows: int
    answers: int
    tokens: int
    updates: int = 1


def passes(fit: Fit, step: Step) -> int:
    """Forward passes that a GPU makes over its part of a step; all make as many, since they gather together."""
    each = step.rows * step.answers * step.tokens / fit.setup.gpus.count
    return step.updates * max(1, -int(-each // (step.updates * max(1, fit.setup.tokens))))


def traffic(fit: Fit, step: Step) -> dict[str, float]:
    """Bytes that each machine takes in during one step, by phase; empty on one machine.

    Training gathers the weights in bfloat16 for the forward and again for the backward pass and sums gradients in
    float32, in every pass: verl's defaults (`reshard_after_forward`, `use_no_sync_for_gradient_accumulation`). The
    weights for the rollout engine are gathered as they are kept, in float32 (`get_per_tensor_param`), once a step.
    """
    setup = fit.setup
    if setup.gpus.nodes == 1:
        return {}
    share = (setup.gpus.count - 1) / setup.gpus.count
    weights, times = share * setup.model.parameters, passes(fit, step)
    adapter = sum(weight.numbers for weight in setup.model.adapter(setup.lora_rank))
    trained = share * adapter if setup.lora_rank else weights
    found = {"training": times * (2 * COMPUTE * weights + GRADIENT * trained)}
    if setup.rollout:
        found["log-probabilities"] = (1 + setup.reference) * times * COMPUTE * weights
        found["new weights"] = MASTER * weights
    elif setup.reference:
        found["reference"] = times * COMPUTE * weights
    if setup.critic:
        own = share * setup.critic.parameters
        found["critic"] = times * (3 * COMPUTE + GRADIENT) * own
    return found


def waiting(fit: Fit, step: Step, phases: dict[str, float]) -> float:
    """Seconds of a step in which the GPUs wait for the network.

    Gathers overlap with the work of the same phase, so what takes longer counts; new weights are waited for.

    Args:
        fit: Settings.
        step: What it does.
        phases: Seconds of work of each phase.
    """
    rate = fit.setup.gpus.network * 1e9 / 8 * USABLE
    return sum(max(0.0, size / rate - phases.get(phase, 0.0)) for phase, size in traffic(fit, step).items())
