"""Data of the tool demo: products that the demo model cannot work out itself.

    python -m grpo.tools.make_data --out outputs/tool-data

``sft.*.parquet`` teaches the form of a call; one answer in three is a guess without a call, so that there is something
left to learn from the reward. ``rl.*.parquet`` holds other products as prompts.
"""

from __future__ import annotations

import random
from typing import Any

from common.data.samples import write_samples

SEED = 6
SMALLEST, LARGEST = 11, 99
SFT_ROWS, RL_ROWS, VAL_ROWS = 3072, 1024, 64
GUESSES = 1 / 3  # share of the SFT answers without a call

DESCRIPTION = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Work out sums.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "Numbers with + - * / and ()."}},
            "required": ["expression"],
        },
    },
}


def question(a: int, b: int) -> dict[str, Any]:
    """The user's turn."""
    return {"role": "user", "content": f"What is {a} * {b}?"}


def sft_row(a: int, b: int, rng: random.Random) -> dict[str, Any]:
    """A conversation with a call, or a guess."""
    from common.data.rows import stored_row

    if rng.random() < GUESSES:
        answers = [{"role": "assistant", "content": f"#### {a * rng.randint(SMALLEST, LARGEST)}"}]
    else:
        call = {"name": "calculator", "arguments": {"expression": f"{a} * {b}"}}
        answers = [
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
            {"role": "tool", "content": str(a * b)},
            {"role": "assistant", "content": f"#### {a * b}"},
        ]
    return stored_row({"messages": [question(a, b), *answers], "tools": [DESCRIPTION]})


def rl_row(a: int, b: int, index: int, split: str) -> dict[str, Any]:
    """A prompt with its answer."""
    return {
        "data_source": "demo/products",
        "prompt": [question(a, b)],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(a * b)},
        "extra_info": {"index": index, "split": split},
    }


def make_files() -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of all four files by name; no product is in two of them."""
    rng = random.Random(SEED)
    numbers = range(SMALLEST, LARGEST + 1)
    pairs = [(a, b) for a in numbers for b in numbers]
    rng.shuffle(pairs)
    taken = iter(pairs)
    files: dict[str, list[dict[str, Any]]] = {}
    for split, rows in (("train", SFT_ROWS), ("val", VAL_ROWS)):
        files[f"sft.{split}"] = [sft_row(*next(taken), rng) for _ in range(rows)]
    for split, rows in (("train", RL_ROWS), ("val", VAL_ROWS)):
        files[f"rl.{split}"] = [rl_row(*next(taken), index, split) for index in range(rows)]
    return files


if __name__ == "__main__":
    write_samples("Write the data of the tool demo.", make_files)
