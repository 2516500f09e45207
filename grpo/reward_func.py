r"""Reward of the GRPO demo: does the answer end in `#### N` with the right number?

This is the form in which GSM8K writes its answers, so the same function scores a GSM8K run:

    >>> compute_score(
    ...     data_source="openai/gsm8k",
    ...     solution_str="Natalia sold 48/2 = 24 clips in May.\nAltogether she sold 48 + 24 = 72.\n#### 72",
    ...     ground_truth="72",
    ... )
    {'score': 1.0, 'acc': 1.0, 'format': 1.0}

To train on your own task, copy this file, change `extract_answer` and `is_correct`, and set `REWARD_FUNC_PATH`.
verl calls `compute_score` once per answer. Whatever it returns beside `score` becomes a curve of its own.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

ANSWER = re.compile(r"####[ \t]*(\S+)")
# Sign, dollar, digits with or without thousands commas, decimals, per cent or dollar sign, full stop.
NUMBER = re.compile(r"([-+]?)\$?((?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?)[%$]?[.。]?")


def extract_answer(text: Any) -> str | None:
    """Finds N in the last `#### N` of an answer.

    Args:
        text: The model's whole answer. Anything that is not a string has no answer in it.

    Returns:
        The text from there to the next white space ("#### 1,234 apples" gives "1,234"), or None.
    """
    if not isinstance(text, str):
        return None
    found = ANSWER.findall(text)
    return found[-1] if found else None


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
    left, right = _to_number(answer), _to_number(ground_truth)
    if left is None or right is None:
        return answer != "" and answer == ground_truth
    return left == right


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
    correct = is_correct(answer, ground_truth)
    formatted = answer is not None and _to_number(answer) is not None
    return {"score": float(correct), "acc": float(correct), "format": float(formatted)}


def _to_number(text: str) -> Decimal | None:
    """Reads "1,234", "18.0", "$5", "-3." or "40%" as an exact number; None when the text is anything else."""
    found = NUMBER.fullmatch(text.strip())
    if not found or not found[2]:
        return None
    return Decimal(found[1] + found[2].replace(",", ""))
