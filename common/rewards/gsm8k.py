r"""Reward for word problems whose answer is a number behind `####`, the form of GSM8K.

    >>> gsm8k("openai/gsm8k", "She sold 24 clips in May, 48 + 24 = 72 in all.\n#### 72", "72")
    {'score': 1.0, 'acc': 1.0, 'format': 1.0}

Source: Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv 2110.14168 (the `####` form).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from common.answers import accepted, behind_thought, read_answer
from common.answers.final import MARK, hash_line
from common.answers.number import Number, last_number, leading_number
from common.rewards.result import refuse, scored, truth_key, unusable

EXPECTED = "a number such as 72, or a solution that ends in #### 72"
TAIL = 1000  # characters at the end in which `flexible` looks for a number


def gsm8k(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    flexible: bool = False,
    **kwargs: Any,
) -> dict[str, float]:
    """Scores 1.0 when the number behind the last `####` is the right one, compared as a number.

    18 = 18.0 = $18 = 18 dollars = 18元, 1,800 = 1800, 3 million = 3,000,000, 3万 = 30000, 1/2 = 0.5 = 50%, 40% = 40. A
    second number on the line is a second answer, and two answers are none; of "3 x 6 = 18" what is behind the equals
    sign counts. A thought does not count, and an answer whose thought is not finished has none.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; anything that is not a string scores 0.
        ground_truth: The right number as text or number, or a whole GSM8K solution, whose `#### N` counts; or several
            in a list, of which one has to match.
        extra_info: Column `extra_info` of the row. Unused.
        flexible: Without a number behind `####`, take the last number in the final 1,000 characters. Also rewards
            answers that ignore the form, so keep it for evaluation.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score` and `acc`, 1.0 or 0.0, and `format`, 1.0 when there is a number where one is looked for.

    Raises:
        ValueError: If the ground truth is not a number.
    """
    if kwargs:
        refuse(kwargs, "gsm8k", "it has flexible")
    truths = _truths(ground_truth if type(ground_truth) is str else truth_key("gsm8k", ground_truth, EXPECTED))
    answer = behind_thought(solution_str)
    line = hash_line(answer) if answer is not None else None
    first_text, first = truths[0]
    if line == first_text:
        return {"score": 1.0, "acc": 1.0, "format": 1.0}
    if line and line.isdigit() and line.isascii() and len(truths) == 1 and not first.percent:
        return scored(int(line) == first.value, True)  # the usual wrong answer, without a regex
    number = _number(line) if line else None
    if number is None and flexible and answer is not None:
        number = last_number(answer[-TAIL:])
    return scored(number is not None and any(number.same(truth) for _, truth in truths), number is not None)


def _number(line: str) -> Number | None:
    """Reads the number that a line states: "18 dollars", "Answer: 18", "3 x 6 = 18"."""
    number = leading_number(line)
    if number is None and (opened := read_answer(line).text) != line:
        number = leading_number(opened)
    return leading_number(line.rpartition("=")[2].strip()) if number is None and "=" in line else number


@lru_cache(maxsize=65536)
def _truths(truth: str | tuple) -> tuple[tuple[str, Number], ...]:
    """Returns each accepted answer as it is written and as a number.

    Raises:
        ValueError: If none is a number.
    """
    try:
        texts = [str(one) for one in accepted(truth)]
    except ValueError as error:
        raise unusable("gsm8k", truth, EXPECTED) from error
    lines = [hash_line(text) if MARK in text else text for text in texts]
    truths = tuple((line, number) for line in lines if (number := _number(line)) is not None)
    if not truths:
        raise unusable("gsm8k", truth, EXPECTED)
    return truths
