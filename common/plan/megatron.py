"""What Megatron holds on each GPU where several share a model: an estimate, compared with no run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from common.plan.machine import Gpus
from common.plan.weights import Model

WEIGHT, GRADIENT, OPTIMIZER = 2, 4, 12  # bytes a number: bfloat16, float32, float32 master with both moments
EXPERTS = ".experts."


@dataclass(frozen=True)
class Split:
    """GPUs that share a model.

    Args:
        tensor: Each matrix.
        pipeline: The layers.
        context: Each sequence.
        expert: The experts of a mixture; these GPUs are among those of the data-parallel copies.
    """

    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1

    @classmethod
    def parse(cls, text: str) -> Split:
        """Of ``4x2x1x1``.

        Raises:
            ValueError: If that is not four numbers from 1.
        """
        numbers = text.split("x")
        if len(numbers) != 4 or not all(number.isdecimal() and int(number) for number in numbers):
            raise ValueError("must be four numbers from 1: tensor x pipeline x context x expert, such as 4x2x1x1")
        return cls(*map(int, numbers))

    def __str__(self) -> str:
        return f"{self.tensor}x{self.pipeline}x{self.context}x{self.expert}"

    @property
    def gpus(self) -> int:
        """GPUs of one copy of the model."""
        return self.tensor * self.pipeline * self.context


def experts_of(model: Model) -> int:
    """Experts in a layer, 0 in a dense model."""
    return max((weight.shape[0] for weight in model.weights if EXPERTS in weight.name), default=0)


def states(model: Model, split: Split, gpus: int) -> dict[str, int]:
    """Bytes of weights, gradients and optimiser on the fullest GPU: one of the stage with the embedding or the head.

    The optimiser is dealt out over the copies of what a GPU holds (``use_distributed_optimizer``); the experts have
    ``expert`` times fewer copies, as each is held by ``expert`` times fewer GPUs.
    """
    experts = sum(weight.numbers for weight in model.weights if EXPERTS in weight.name)
    largest_outside = max((weight.numbers for weight in model.outer_weights), default=0)
    outside = model.outside if split.pipeline == 1 else largest_outside
    stages, copies = split.tensor * split.pipeline, max(1, gpus // (split.tensor * split.pipeline))
    dense = (model.parameters - model.outside - experts) // stages + outside // split.tensor
    parts = ((dense, copies), (experts // (stages * split.expert), max(1, copies // split.expert)))
    held = sum(numbers for numbers, _ in parts)
    optimizer = sum(-(-numbers // count) for numbers, count in parts)
    return {"weights": WEIGHT * held, "gradients": GRADIENT * held, "optimizer": OPTIMIZER * optimizer}


def problem_of(split: Split, model: Model, gpus: Gpus) -> str | None:
    """Why Megatron or verl would refuse it: what their config classes and process groups ask for."""
    world, experts = gpus.count, experts_of(model)
    if world % split.gpus:
        return f"one copy takes {split.gpus} GPUs, which do not divide the {world} there are"
    if gpus.per_node % split.tensor:
        return (
            f"tensor parallelism exchanges in each layer, and {split.tensor} do not divide a machine's {gpus.per_node}"
        )
    if model.heads % split.tensor:
        return f"{model.heads} attention heads do not divide by {split.tensor}"
    if model.kv_heads % split.tensor and split.tensor % model.kv_heads:
        return f"{split.tensor} is neither a part nor a multiple of the {model.kv_heads} key-value heads"
    if model.layers % split.pipeline:
        return f"{model.layers} layers do not divide by {split.pipeline} stages"
    if split.expert > 1 and not experts:
        return "the model has no experts"
    if experts and experts % split.expert:
        return f"{experts} experts do not divide by {split.expert}"
    if world % (split.tensor * split.pipeline * split.expert):
        return (
            f"tensor x pipeline x expert is {split.tensor * split.pipeline * split.expert}, "
            f"which does not divide {world} GPUs"
        )
    return None


def splits(model: Model, gpus: Gpus) -> Iterator[Split]:
    """Those that are allowed, the fewest GPUs for a copy first; experts are dealt out over all that can hold them."""
    sizes = [2**power for power in range(gpus.count.bit_length())]
    pairs = sorted(((tensor, stages) for tensor in sizes for stages in sizes), key=lambda pair: (prod(pair), pair[1]))
    for tensor, stages in pairs:
        for expert in reversed(sizes) if experts_of(model) else (1,):
            split = Split(tensor, stages, 1, expert)
            if problem_of(split, model, gpus) is None:
                yield split
                break
