r"""Reward for word problems whose answer is a number behind `####`, the form of GSM8K.

    >>> gsm8k("openai/gsm8k", "She sold 24 clips in May, 48 + 24 = 72 in all.\n#### 72", "72")
    {'score': 1.0, 'acc': 1.0, 'format': 1.0}

Source: Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv 2110.14168 (the `####` form).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from common.answers.number import LONGEST, Number, last_number, leading_number
from common.rewards.result import refuse, scored, unusable

MARK = "####"
TAIL = 1000  # characters at the end in which `flexible` looks for a number


def gsm8k(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict | None = None,
    flexible: bool = False,
    **kwargs: Any,
) -> dict[str, float]:
    """Scores 1.0 when the number behind the last `####` is the right one, compared as a number.

    18 = 18.0 = $18 = 18 dollars, 1,800 = 1800, 1/2 = 0.5 = 50%, 40% = 40. A second number on the line is a second
    answer, and two answers are none.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; anything that is no string scores 0.
        ground_truth: The right number as text or number, or a whole GSM8K solution, whose `#### N` counts.
        extra_info: Column `extra_info` of the row. Unused.
        flexible: Without a number behind `####`, take the last number in the final 1,000 characters. Also rewards
            answers that ignore the form, so keep it for evaluation.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score` and `acc`, 1.0 or 0.0, and `format`, 1.0 when there is a number where one is looked for.

    Raises:
        ValueError: If the ground truth is no number.
    """
    if kwargs:
        refuse(kwargs, "gsm8k", "it has flexible")
    truth_text, truth = _truth(ground_truth if type(ground_truth) is str else _as_text(ground_truth))
    line = marked_line(solution_str)
    if line == truth_text:
        return {"score": 1.0, "acc": 1.0, "format": 1.0}
    if line and line.isdigit() and line.isascii() and not truth.percent:  # the usual wrong answer, without a regex
        return scored(int(line) == truth.value, True)
    number = leading_number(line) if line else None
    if number is None and flexible and isinstance(solution_str, str):
        number = last_number(solution_str[-TAIL:])
    return scored(number is not None and number.same(truth), number is not None)


def marked_line(text: Any) -> str | None:
    """Returns what stands behind the last `####`, to the end of its line and at most 200 characters; None without."""
    if not isinstance(text, str):
        return None
    start = text.rfind(MARK)
    if start < 0:
        return None
    start += len(MARK)
    end = text.find("\n", start, start + LONGEST)
    return text[start : end if end >= 0 else start + LONGEST].strip()


@lru_cache(maxsize=65536)
def _truth(text: str) -> tuple[str, Number]:
    line = marked_line(text)
    line = text.strip() if line is None else line
    number = leading_number(line)
    if number is None:
        raise unusable("gsm8k", text, "a number such as 72, or a solution that ends in #### 72")
    return line, number


def _as_text(truth: Any) -> str:
    if isinstance(truth, bool) or not isinstance(truth, int | float):
        raise unusable("gsm8k", truth, "a number such as 72, or a solution that ends in #### 72")
    return str(truth)
