"""Write the GSPO sample data: sums to answer, pairs to compare, and rows that are both.

    python -m gspo.data.make_data                  # rewrites train.parquet and val.parquet next to this file
    python -m gspo.data.make_data --out /tmp/data

The questions are those of grpo/data, whose validation questions are not asked in training. The pairs are about other
training questions, but for the rows with `self_play`, which serve as both.
"""

from __future__ import annotations

import random
from pathlib import Path

from common.data.samples import write_samples
from dpo.data.make_data import make_row as make_pair
from grpo.data.make_data import draw_pairs, make_row

SEED = 4
PROMPTS, PAIRS, BOTH = 1024, 192, 64  # rows of each kind in training
VAL_PAIRS = 48

Row = dict[str, object]


def make_rows(sums: list[tuple[int, int]], kinds: list[str], split: str, rng: random.Random) -> list[Row]:
    """Returns a row for each sum: of the kind `prompt`, `pair` or `both`."""
    rows = []
    for index, ((a, b), kind) in enumerate(zip(sums, kinds, strict=True)):
        row: Row = make_row(a, b, index, split) | {"chosen": None, "rejected": None, "self_play": None}
        if kind != "prompt":
            pair = make_pair(a, b, rng)
            row |= {"chosen": pair["chosen"], "rejected": pair["rejected"], "self_play": kind == "both" or None}
        rows.append(row)
    return rows


def make_splits() -> dict[str, list[Row]]:
    """Returns the rows of both files, `train` and `val`."""
    rng = random.Random(SEED)
    train, val = draw_pairs()
    kinds = ["prompt"] * PROMPTS + ["pair"] * PAIRS + ["both"] * BOTH
    rng.shuffle(kinds)
    held_out = train[len(kinds) : len(kinds) + VAL_PAIRS]
    return {
        "train": make_rows(train[: len(kinds)], kinds, "train", rng),
        "val": make_rows(val + held_out, ["prompt"] * len(val) + ["pair"] * VAL_PAIRS, "val", rng),
    }


if __name__ == "__main__":
    write_samples("Write the GSPO sample data.", make_splits, Path(__file__).resolve().parent)
