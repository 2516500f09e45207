"""Write the reward model's sample data: several pairs to each sum, most about the number.

    python -m ppo.reward_model.data.make_data              # rewrites train.parquet and val.parquet next to this file
    python -m ppo.reward_model.data.make_data --out /tmp/data

As in DPO's sample the chosen answer shows the working and ends in `#### N`, and the rejected one is the plain sentence
or has a wrong number. A reward model has to learn what a right sum is, from nothing but pairs, and DPO's 512 mistakes
are learnt by heart before it does. So each sum comes with one pair about the form and several mistakes. No pair of
numbers in validation is asked about in training.
"""

from __future__ import annotations

import random
from pathlib import Path

from common.data.samples import write_samples
from common.demo_model.make import LARGEST, QUESTIONS, wrong_sum

SEED = 4
TRAIN_SUMS, VAL_SUMS = 2048, 128
MISTAKES = 3  # to each sum, all different
Message = dict[str, str]


def make_rows(a: int, b: int, mistakes: int, form: bool, rng: random.Random) -> list[dict[str, list[Message]]]:
    """Returns the pairs of one sum: of a right answer with ``mistakes`` wrong ones, and with the plain sentence."""
    wrong: list[int] = []
    while len(wrong) < mistakes:
        number = wrong_sum(a + b, rng)
        if number != a + b and number not in wrong:
            wrong.append(number)
    rejected = [in_form(a, b, number) for number in wrong] + [f"The answer is {a + b}."] * form
    return [
        {
            "prompt": [{"role": "user", "content": rng.choice(QUESTIONS).format(a=a, b=b)}],
            "chosen": [{"role": "assistant", "content": in_form(a, b, a + b)}],
            "rejected": [{"role": "assistant", "content": text}],
        }
        for text in rejected
    ]


def in_form(a: int, b: int, number: int) -> str:
    """An answer in the expected form."""
    return f"{a} + {b} = {number}\n#### {number}"


def make_splits() -> dict[str, list[dict[str, list[Message]]]]:
    """Returns the rows of both files, `train` and `val`; of `val` half are about the form and half about the number."""
    rng = random.Random(SEED)
    sums = [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]
    rng.shuffle(sums)
    train = [row for a, b in sums[:TRAIN_SUMS] for row in make_rows(a, b, MISTAKES, True, rng)]
    held = sums[TRAIN_SUMS : TRAIN_SUMS + VAL_SUMS]
    val = [row for place, (a, b) in enumerate(held) for row in make_rows(a, b, place % 2, place % 2 == 0, rng)]
    return {"train": train, "val": val}


if __name__ == "__main__":
    write_samples("Write the reward model's sample data.", make_splits, Path(__file__).resolve().parent)
