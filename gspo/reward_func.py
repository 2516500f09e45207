r"""Reward of the GSPO example: one score made of three named parts, each a separate curve.

    score = 1.0 x correct + 0.1 x format + 0.1 x length

    >>> compute_score("demo/sums", "7 + 8 = 15\n#### 15", "15")
    {'score': 1.1, 'acc': 1.0, 'format': 1.0, 'length': 0.0}

The small weights leave a right answer ahead of every wrong one. To train on your own task, copy this file, change the
parts, and set `REWARD_FUNC_PATH`. The bench tries it on your data before a run:

    python -m common.reward_functions bench --reward gspo/reward_func.py --data train.parquet
"""

from __future__ import annotations

from typing import Any

from common.rewards.gsm8k import gsm8k
from common.rewards.shaping import soft_overlong

CORRECT = 1.0  # weight of: the number behind the last `####` is right, 0 or 1
FORMAT = 0.1  # weight of: there is a number behind a `####` at all, 0 or 1
LENGTH = 0.1  # weight of DAPO's penalty for long answers, -1 to 0
MAX_LENGTH = 2000  # characters at which the penalty is full
BUFFER = 500  # characters before that, over which it grows


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    """Scores one answer; the signature is the one that verl calls by keyword.

    Args:
        data_source: Column `data_source` of the row. Unused: one rule serves all sources.
        solution_str: The model's answer, decoded without special tokens.
        ground_truth: Column `reward_model.ground_truth` of the row: the right number.
        extra_info: Column `extra_info` of the row. Unused.
        **kwargs: Whatever later versions of verl add.

    Returns:
        `score` (what is trained on), `acc`, `format` and `length`. Always these keys, as verl requires.

    Raises:
        ValueError: If the ground truth is not a number.
    """
    judged = gsm8k(data_source, solution_str, ground_truth)
    length = soft_overlong(data_source, solution_str, ground_truth, max_length=MAX_LENGTH, buffer=BUFFER)
    score = CORRECT * judged["acc"] + FORMAT * judged["format"] + LENGTH * length
    return {"score": score, "acc": judged["acc"], "format": judged["format"], "length": length}
