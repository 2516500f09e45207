"""Tokens of a forward pass as planned (TOKENS_PER_GPU) and as they are, with and without padding: a Markdown table.

    .venv/bin/python benchmarks/padding.py

256 prompts and answers of three lengths, in micro-batches as verl makes them. "verl, padded" is what its own filling
gives where attention pads; the kit counts the padding (common/verl_ext/padded_batches.py).
"""

import sys
from pathlib import Path

import torch
from tensordict import TensorDict

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.verl_ext import padded_batches  # noqa: E402

PLANNED, ROWS = 16384, 256
ANSWERS = {  # median as a logarithm, spread, the fewest and the most tokens
    "short sums, at most 1,024": (5.4, 0.5, 20, 1024),
    "competition mathematics, at most 2,048": (6.3, 0.8, 30, 2048),
    "long reasoning, at most 8,192": (7.0, 1.0, 50, 8192),
}


def batch(answers: tuple[float, float, int, int]) -> TensorDict:
    """Rows of log-normal length as verl's engines get them."""
    generator = torch.Generator().manual_seed(0)
    median, spread, least, most = answers
    prompts = torch.randint(60, 250, (ROWS,), generator=generator)
    drawn = torch.exp(torch.randn(ROWS, generator=generator) * spread + median).clamp(least, most)
    rows = [torch.zeros(int(length), dtype=torch.long) for length in prompts + drawn]
    return TensorDict({"input_ids": torch.nested.nested_tensor(rows, layout=torch.jagged)}, batch_size=[ROWS])


def tokens(micro_batches: list[TensorDict], padded: bool) -> list[int]:
    """Tokens of each forward pass."""
    sizes = [part["input_ids"].offsets().diff() for part in micro_batches]
    return [len(size) * int(size.max()) if padded else int(size.sum()) for size in sizes]


def figures() -> dict[str, dict[str, tuple[int, float]]]:
    """By lengths and by way: the largest forward pass, and all passes' tokens for each real one."""
    from verl.utils import seqlen_balancing

    verls = seqlen_balancing.rearrange_micro_batches
    ours = padded_batches.replacement(verls)
    found = {}
    for name, answers in ANSWERS.items():
        data = batch(answers)
        real = int(data["input_ids"].offsets()[-1])
        ways = {"without padding": (verls, False), "verl, padded": (verls, True), "kit, padded": (ours, True)}
        made = {way: tokens(make(data, PLANNED)[0], padded) for way, (make, padded) in ways.items()}
        found[name] = {way: (max(sizes), sum(sizes) / real) for way, sizes in made.items()}
    return found


if __name__ == "__main__":
    print("| answers | way | planned | largest | of the plan | work |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for lengths, ways in figures().items():
        for way, (largest, work) in ways.items():
            print(f"| {lengths} | {way} | {PLANNED:,} | {largest:,} | {largest / PLANNED:.2f} | {work:.2f} |")
