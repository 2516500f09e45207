"""Log-probabilities of bfloat16 logits, in chunks and by verl's loop without flash-attn: errors and times in turn.

    .venv/bin/python benchmarks/log_probs.py [--tokens 16384] [--vocabulary 4096] [--pairs 3]

Errors are to float64, of values and of gradients, over all tokens; seconds are CPU seconds of the process, which other
work on the machine does not change much, of one call and of one with its backward pass.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.verl_ext.log_probs import chunked_log_probs  # noqa: E402

CHECKED = 1024  # rows at a time in float64
Way = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def with_gradient(way: Way, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and the gradient of the sum of their squares, which weighs each row otherwise."""
    given = logits.detach().requires_grad_()
    found = way(given, labels)
    (gradient,) = torch.autograd.grad(found.double().pow(2).sum(), given)
    return found.detach(), gradient


def plain(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As the textbook has it."""
    return torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]


def errors(way: Way, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Largest and mean error of values and of gradients against float64."""
    found, gradient = with_gradient(way, logits, labels)
    worst = {"value": 0.0, "gradient": 0.0}
    total = dict.fromkeys(worst, 0.0)
    for start in range(0, len(logits), CHECKED):
        part = slice(start, start + CHECKED)
        exact, slope = with_gradient(plain, logits[part].double(), labels[part])
        for name, one, other in (("value", found[part], exact), ("gradient", gradient[part], slope)):
            off = (one.double() - other).abs()
            worst[name] = max(worst[name], float(off.max()))
            total[name] += float(off.sum()) / (len(found) if name == "value" else gradient.numel())
    return worst | {f"mean {name}": value for name, value in total.items()}


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=3, help="calls of each way, in turn")
    arguments = parser.parse_args()
    from verl.utils.torch_functional import logprobs_from_logits_v2

    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(arguments.tokens, arguments.vocabulary, generator=generator)).bfloat16()
    labels = torch.randint(0, arguments.vocabulary, (arguments.tokens,), generator=generator)
    ways: dict[str, Way] = {"chunks": chunked_log_probs, "verl's loop": logprobs_from_logits_v2}
    took: dict[tuple[str, bool], list[float]] = {}
    for _ in range(arguments.pairs):
        for name, way in ways.items():
            took.setdefault((name, False), []).append(seconds(lambda way=way: way(logits, labels)))
            took.setdefault((name, True), []).append(seconds(lambda way=way: with_gradient(way, logits, labels)))
    print("| way | error | mean | gradient's | mean | CPU seconds | with gradient |\n| --- |" + " ---: |" * 6)
    for name, way in ways.items():
        off = errors(way, logits, labels)
        cells = [f"{off[key]:.1e}" for key in ("value", "mean value", "gradient", "mean gradient")]
        cells += [f"{statistics.median(took[name, backward]):.3f}" for backward in (False, True)]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
