"""Write the DPO sample data: sums, answered in the expected form and otherwise.

    python -m dpo.data.make_data                  # rewrites train.parquet and val.parquet next to this file
    python -m dpo.data.make_data --out /tmp/data

The chosen answer shows the working and ends in `#### N`. The rejected one is either the plain sentence that the demo
model gives about half of the time, or the expected form with a wrong number. No pair of numbers in validation is asked
about in training.
"""

from __future__ import annotations

import random
from pathlib import Path

from common.data.samples import write_samples
from common.demo_model.make import LARGEST, QUESTIONS, wrong_sum

SEED = 3
TRAIN_ROWS = 1024
VAL_ROWS = 128
Message = dict[str, str]


def make_row(a: int, b: int, rng: random.Random) -> dict[str, list[Message]]:
    """Returns prompt, chosen and rejected for one sum, each a list of messages."""
    wrong = wrong_sum(a + b, rng) or a + b + 1  # never the right one, which 0 less something would be
    style = f"The answer is {a + b}."
    mistake = f"{a} + {b} = {wrong}\n#### {wrong}"
    return {
        "prompt": [{"role": "user", "content": rng.choice(QUESTIONS).format(a=a, b=b)}],
        "chosen": [{"role": "assistant", "content": f"{a} + {b} = {a + b}\n#### {a + b}"}],
        "rejected": [{"role": "assistant", "content": rng.choice((style, mistake))}],
    }


def make_splits() -> dict[str, list[dict[str, list[Message]]]]:
    """Returns the rows of both files, `train` and `val`."""
    rng = random.Random(SEED)
    sums = [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]
    rng.shuffle(sums)
    rows = [make_row(a, b, rng) for a, b in sums[: TRAIN_ROWS + VAL_ROWS]]
    return {"train": rows[:TRAIN_ROWS], "val": rows[TRAIN_ROWS:]}


if __name__ == "__main__":
    write_samples("Write the DPO sample data.", make_splits, Path(__file__).resolve().parent)
