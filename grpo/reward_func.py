r"""Reward of the GRPO demo: does the answer end in `#### N` with the right number? GSM8K writes its answers so.

    >>> compute_score("openai/gsm8k", "Altogether she sold 48 + 24 = 72 clips.\n#### 72", "72")
    {'score': 1.0, 'acc': 1.0, 'format': 1.0}

To train on your own task, copy this file, change what `score` is made of, and set `REWARD_FUNC_PATH`. The bench tries
it on your data: `python -m common.reward_functions bench --reward grpo/reward_func.py --data train.parquet`.
`common/reward_functions.py` has ready ones (mathematics, multiple choice, code, length, ...).
"""

from __future__ import annotations

from typing import Any

from common.rewards.gsm8k import gsm8k


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    """Scores one answer; verl calls it by keyword, once per answer.

    Args:
        data_source: Column `data_source` of the row: which rule to use, where a run mixes data sets.
        solution_str: The model's answer, decoded without special tokens.
        ground_truth: Column `reward_model.ground_truth` of the row: the right number.
        extra_info: Column `extra_info` of the row: whatever else your rule needs.
        **kwargs: `reward_kwargs` of the run, and whatever later versions of verl add.

    Returns:
        `score` is trained on. What is next to it becomes a separate curve: `acc`, the number is right, and
        `format`, there is a number behind `####`. Always the same keys, as verl requires.

    Raises:
        ValueError: If the ground truth is not a number.
    """
    judged = gsm8k(data_source, solution_str, ground_truth, extra_info)
    return {"score": judged["acc"], "acc": judged["acc"], "format": judged["format"]}
