"""One weight of several models mixed into one: the arithmetic of ``average``, on tensors alone.

Sources, whose names are used:

* mean: model soups, Wortsman et al., arXiv 2203.05482
* slerp: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985
* ties: Yadav et al., arXiv 2306.01708
* dare: Yu et al., arXiv 2311.03099
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

METHODS = ("mean", "slerp", "ties", "dare", "dare_ties")
WITH_BASE = ("ties", "dare", "dare_ties")
NEARLY_PARALLEL = 0.9995  # cosine above which an arc and a line are the same to the eye, and 1 / sin(angle) is not safe


@dataclass(frozen=True)
class Recipe:
    """How models are mixed.

    Args:
        method: One of ``METHODS``.
        shares: One a model; they sum to 1.
        density: ties and dare: the share of each weight's changes that is kept, in (0, 1].
        scale: ties and dare: the mixed change is multiplied by this before it is added to the base model.
        seed: dare: which changes are dropped.
    """

    method: str = "mean"
    shares: tuple[float, ...] = ()
    density: float = 0.5
    scale: float = 1.0
    seed: int = 0

    def check(self) -> Recipe:
        """Return itself.

        Raises:
            ValueError: If the values do not fit the method.
        """
        if self.method not in METHODS:
            raise ValueError(f"--method {self.method}: there are {', '.join(METHODS)}")
        if self.method == "slerp" and len(self.shares) != 2:
            raise ValueError(f"--method slerp: an arc joins two models, {len(self.shares)} are given")
        if self.method != "mean" and min(self.shares) < 0:
            raise ValueError(f"--method {self.method}: a weight below 0 has no meaning here; it has with mean")
        if not 0 < self.density <= 1:
            raise ValueError(f"--density {self.density:g}: must be above 0 and at most 1")
        return self


def mix(name: str, tensors: Sequence[torch.Tensor], base: torch.Tensor | None, recipe: Recipe) -> torch.Tensor:
    """Mix one weight.

    Args:
        name: Of the weight; decides, with the seed, what dare drops.
        tensors: One a model, of one shape, float32.
        base: The weight that the models started from; None for mean and slerp.
        recipe: How.

    Returns:
        The mixed weight, float32.
    """
    if recipe.method == "mean":
        return sum(share * tensor for share, tensor in zip(recipe.shares, tensors, strict=True))
    if recipe.method == "slerp":
        return slerp(tensors[0], tensors[1], recipe.shares[1])
    deltas = [tensor - base for tensor in tensors]
    if recipe.method == "ties":
        deltas = [trim(delta, recipe.density) for delta in deltas]
    else:
        deltas = [drop(delta, recipe.density, _seed(recipe.seed, name, index)) for index, delta in enumerate(deltas)]
    if recipe.method == "dare":
        mixed = sum(share * delta for share, delta in zip(recipe.shares, deltas, strict=True))
    else:
        mixed = elect(deltas, recipe.shares)
    return base + recipe.scale * mixed


def slerp(first: torch.Tensor, second: torch.Tensor, t: float) -> torch.Tensor:
    """The point at ``t`` (0: the first, 1: the second) of the arc between two weights, each taken as one vector."""
    import torch

    one, two = first.double().flatten(), second.double().flatten()
    lengths = one.norm() * two.norm()
    cosine = float((one @ two) / lengths) if lengths > 0 else 1.0
    if abs(cosine) > NEARLY_PARALLEL:  # also of a weight that is all zero, and of opposite ones, which no one arc joins
        return (1 - t) * first + t * second
    angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
    left, right = torch.sin((1 - t) * angle) / torch.sin(angle), torch.sin(t * angle) / torch.sin(angle)
    return float(left) * first + float(right) * second


def trim(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Keep the largest changes of a weight, set the others to 0.

    The number kept is ``density`` of the weight's entries, at least 1. (The paper ranks all weights of a model
    together; per weight, as other mergers do it too, no more than one must be in memory.)
    """
    import torch

    kept = max(1, int(density * delta.numel()))
    if kept == delta.numel():
        return delta
    flat = delta.flatten()
    places = flat.abs().topk(kept, sorted=False).indices
    return torch.zeros_like(flat).index_copy_(0, places, flat[places]).view_as(delta)


def drop(delta: torch.Tensor, density: float, seed: int) -> torch.Tensor:
    """Drop changes at random, each with probability 1 - ``density``, and scale the others by 1 / ``density``."""
    import torch

    if density == 1:
        return delta
    drawn = torch.rand(delta.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(drawn < density, delta / density, torch.zeros_like(delta))


def elect(deltas: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """TIES: the sign with more weight behind it wins each entry; the mean of those changes that have it."""
    import torch

    total = sum(share * delta for share, delta in zip(shares, deltas, strict=True))
    positive = total >= 0
    mixed, behind = torch.zeros_like(total), torch.zeros_like(total)
    for share, delta in zip(shares, deltas, strict=True):
        agrees = (delta != 0) & ((delta > 0) == positive)
        mixed += torch.where(agrees, share * delta, torch.zeros_like(delta))
        behind += share * agrees
    return torch.where(behind > 0, mixed / behind.clamp_min(torch.finfo(torch.float32).tiny), torch.zeros_like(mixed))


def _seed(seed: int, name: str, index: int) -> int:
    """Seed of one weight of one model, the same on every machine and in whatever order weights are mixed."""
    return int.from_bytes(hashlib.sha256(f"{seed} {index} {name}".encode()).digest()[:7], "big")
