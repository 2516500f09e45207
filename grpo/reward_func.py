r"""Reward of the GRPO demo: does the answer end in `#### N` with the right number?

This is the form in which GSM8K writes its answers, so the same function scores a GSM8K run:

    >>> compute_score(
    ...     data_source="openai/gsm8k",
    ...     solution_str="Natalia sold 48/2 = 24 clips in May.\nAltogether she sold 48 + 24 = 72.\n#### 72",
    ...     ground_truth="72",
    ... )
    {'score': 1.0, 'acc': 1.0, 'format': 1.0}

To train on your own task, copy this file, change `extract_answer` and `is_correct`, and set `REWARD_FUNC_PATH`.
`common/reward_functions.py` has ready ones (mathematics, multiple choice, code, length, ...), and the bench tries any
of them on your data: `python -m common.reward_functions bench --reward grpo/reward_func.py --data train.parquet`.
verl calls `compute_score` once per answer. Whatever it returns beside `score` becomes a curve of its own.
"""

from __future__ import annotations

from typing import Any

from common.answers.number import read_number
from common.rewards.result import scored

MARK = "####"


def extract_answer(text: Any) -> str | None:
    """Finds N in the last `#### N` of an answer.

    Args:
        text: The model's whole answer. Anything that is not a string has no answer in it.

    Returns:
        The text from there to the next white space ("#### 1,234 apples" gives "1,234"), or None.
    """
    if not isinstance(text, str) or MARK not in text:
        return None
    words = text.rsplit(MARK, 1)[1].split("\n", 1)[0].split()
    return words[0] if words else None


def is_correct(answer: Any, ground_truth: Any) -> bool:
    """Compares two answers as numbers: "$1,234.0." equals 1234.

    Args:
        answer: What the model gave, as text or number; None is never correct.
        ground_truth: The right answer, as text or number. Of a whole GSM8K solution, its N counts.

    Returns:
        True when both are the same finite number, or, when either is no number, the same text.
    """
    if answer is None or ground_truth is None:
        return False
    answer, ground_truth = str(answer).strip(), str(ground_truth).strip()
    ground_truth = extract_answer(ground_truth) or ground_truth
    left, right = read_number(answer), read_number(ground_truth)
    if left is None or right is None:
        return answer != "" and answer == ground_truth
    return left.value == right.value


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    """Scores one answer; the signature is the one that verl calls by keyword.

    Args:
        data_source: Column `data_source` of the row. Unused: one rule serves all sources.
        solution_str: The model's answer, decoded without special tokens.
        ground_truth: Column `reward_model.ground_truth` of the row.
        extra_info: Column `extra_info` of the row. Unused.
        **kwargs: Whatever later versions of verl add.

    Returns:
        `score` (what is trained on) and `acc`, both 1.0 for the right number in the right form, else 0.0, and
        `format`, 1.0 when there is a number behind `####` at all. Always these keys, as verl requires.
    """
    answer = extract_answer(solution_str)
    return scored(is_correct(answer, ground_truth), answer is not None and read_number(answer) is not None)
