"""Curves of supervised training for `record`: a linear classifier of random features, by cross-entropy as written down.

``loss.jsonl``: a rate so high that a probability becomes 0 and its logarithm infinite; ``val_loss.jsonl``: labels that
are half noise, learned by heart; ``healthy_sft.jsonl``: five runs that learn and stop in time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

FEATURES, CLASSES, VALIDATION = 24, 4, 2000


def run(seed: int, rate: float, rows: int, noise: float, steps: int, width: int = 0) -> list[dict[str, torch.Tensor]]:
    """The metrics of each step.

    Args:
        seed: Of everything.
        rate: Learning rate.
        rows: Of training data, all of them in each step.
        noise: Share of the labels that are drawn by lot.
        steps: Updates.
        width: Features that carry nothing, next to the others.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(FEATURES, CLASSES, generator=generator)

    def data(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(number, FEATURES + width, generator=generator)
        drawn = torch.randint(0, CLASSES, (number,), generator=generator)
        by_lot = torch.rand(number, generator=generator) < noise
        return x, torch.where(by_lot, drawn, (x[:, :FEATURES] @ truth).argmax(-1))

    weights = torch.zeros(FEATURES + width, CLASSES, requires_grad=True)
    (x, y), (val_x, val_y) = data(rows), data(VALIDATION)
    found = []
    for _ in range(steps):
        loss = -(x @ weights).softmax(-1).gather(1, y[:, None]).log().mean()
        (gradient,) = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            weights -= rate * gradient
            held = -(val_x @ weights).log_softmax(-1).gather(1, val_y[:, None]).mean()
        found.append({"train/loss": loss.detach(), "val/loss": held, "train/grad_norm": gradient.norm()})
    return found


def write(folder: Path, written: Callable[[torch.Tensor], float | None]) -> None:
    """Write the files; `written` makes a value ready for JSON."""

    def plain(steps: list[dict[str, torch.Tensor]]) -> list[dict[str, float | None]]:
        return [{name: written(value) for name, value in step.items()} for step in steps]

    ill = {
        "loss": run(seed=1, rate=400.0, rows=64, noise=0.5, steps=12),
        "val_loss": run(seed=1, rate=4.0, rows=64, noise=0.5, steps=40, width=40),
    }
    for name, steps in ill.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain(steps)))
    healthy = ((seed, run(seed, rate=0.5, rows=2000, noise=0.05, steps=40)) for seed in range(5))
    lines = (json.dumps({"seed": seed, "steps": plain(steps)}) + "\n" for seed, steps in healthy)
    (folder / "healthy_sft.jsonl").write_text("".join(lines))
