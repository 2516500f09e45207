"""Write the SFT sample data: differences and comparisons, answered with the working and `#### N`.

    python sft/data/make_data.py                  # rewrites train.parquet and val.parquet next to this file
    python sft/data/make_data.py --out /tmp/data

The demo model knows sums and none of this. Numbers are 0..49. Most rows are one question and one answer, some
open with a system turn, some hold two questions. No pair of numbers in validation is asked about in training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from common.data.samples import write_samples

SEED = 2
LARGEST = 49
TRAIN_ROWS = 4096
VAL_ROWS = 192
VAL_PAIRS = 120
SYSTEM_SHARE = 0.1
TWO_TURN_SHARE = 0.15
SYSTEM_PROMPT = "You are a helpful assistant."

Pair = tuple[int, int]
Messages = list[dict[str, str]]


def ask_difference(pair: Pair, rng: random.Random) -> tuple[str, str]:
    """Returns question and answer; the larger number comes first, so no result is negative."""
    low, high = sorted(pair)
    return f"What is {high} - {low}?", f"{high} - {low} = {high - low}\n#### {high - low}"


def ask_larger(pair: Pair, rng: random.Random) -> tuple[str, str]:
    """Returns question and answer; the numbers are named in either order."""
    low, high = sorted(pair)
    first, second = rng.sample(pair, 2)
    return f"Which is larger, {first} or {second}?", f"{high} > {low}\n#### {high}"


def ask_smaller(pair: Pair, rng: random.Random) -> tuple[str, str]:
    """Returns question and answer; the numbers are named in either order."""
    low, high = sorted(pair)
    first, second = rng.sample(pair, 2)
    return f"Which is smaller, {first} or {second}?", f"{low} < {high}\n#### {low}"


QUESTIONS: tuple[Callable[[Pair, random.Random], tuple[str, str]], ...] = (
    ask_difference,
    ask_difference,  # twice: it is the harder one
    ask_larger,
    ask_smaller,
)


def make_turns(pair: Pair, rng: random.Random) -> Messages:
    """Returns a user turn that asks something about the two numbers, and the assistant's answer."""
    question, answer = rng.choice(QUESTIONS)(pair, rng)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def make_conversation(pairs: list[Pair], rng: random.Random) -> Messages:
    """Returns the messages of one row.

    A row is plain, has a system turn, or has a first question about one-digit numbers before the main one.
    It never has both, so that every row stays within 64 tokens of the demo tokenizer.
    """
    kind = rng.random()
    messages = make_turns(rng.choice(pairs), rng)
    if kind < SYSTEM_SHARE:
        return [{"role": "system", "content": SYSTEM_PROMPT}, *messages]
    if kind < SYSTEM_SHARE + TWO_TURN_SHARE:
        one_digit = [pair for pair in pairs if max(pair) < 10]
        return make_turns(rng.choice(one_digit), rng) + messages
    return messages


def make_splits() -> dict[str, list[Messages]]:
    """Returns the conversations of both files, `train` and `val`."""
    rng = random.Random(SEED)
    pairs = [(a, b) for a in range(LARGEST + 1) for b in range(a)]
    rng.shuffle(pairs)
    one_digit = [pair for pair in pairs if max(pair) < 10]
    val_pairs = sorted({*one_digit[:8], *pairs[:VAL_PAIRS]})
    train_pairs = sorted(set(pairs) - set(val_pairs))
    return {
        "train": [make_conversation(train_pairs, rng) for _ in range(TRAIN_ROWS)],
        "val": [make_conversation(val_pairs, rng) for _ in range(VAL_ROWS)],
    }


def _make_rows() -> dict[str, list[dict[str, Messages]]]:
    return {split: [{"messages": messages} for messages in rows] for split, rows in make_splits().items()}


if __name__ == "__main__":
    write_samples("Write the SFT sample data.", _make_rows, Path(__file__).resolve().parent)
