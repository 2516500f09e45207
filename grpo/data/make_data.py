"""Write the GRPO sample data: small sums, one question a row, in verl's RL format.

    python grpo/data/make_data.py                  # rewrites train.parquet and val.parquet next to this file
    python grpo/data/make_data.py --out /tmp/data

Both numbers are 0..49. No validation question is in the training set, nor is the same sum in the other order.
"""

from __future__ import annotations

import random
from pathlib import Path

from common.data.samples import write_samples

SEED = 1
LARGEST = 49
TRAIN_ROWS = 2048
VAL_PAIRS = 64  # unordered, so twice as many rows

Row = dict[str, object]


def draw_pairs() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Splits all pairs of numbers.

    Returns:
        The (a, b) of the training questions and of the validation questions, shuffled, without repetition.
    """
    rng = random.Random(SEED)
    numbers = range(LARGEST + 1)
    held_out = rng.sample([(a, b) for a in numbers for b in numbers if a < b], VAL_PAIRS)
    val = held_out + [(b, a) for a, b in held_out]
    train = rng.sample(sorted({(a, b) for a in numbers for b in numbers} - set(val)), TRAIN_ROWS)
    rng.shuffle(val)
    return train, val


def make_row(a: int, b: int, index: int, split: str) -> Row:
    """Returns one row with the columns that verl's RL dataset and reward loop read."""
    return {
        "data_source": "demo/sums",
        "prompt": [{"role": "user", "content": f"What is {a} + {b}?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(a + b)},
        "extra_info": {"index": index, "split": split},
    }


def make_splits() -> dict[str, list[Row]]:
    """Returns the rows of both files, `train` and `val`."""
    train, val = draw_pairs()
    return {
        "train": [make_row(a, b, i, "train") for i, (a, b) in enumerate(train)],
        "val": [make_row(a, b, i, "val") for i, (a, b) in enumerate(val)],
    }


if __name__ == "__main__":
    write_samples("Write the GRPO sample data.", make_splits, Path(__file__).resolve().parent)
