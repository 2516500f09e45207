r"""Reward for multiple choice, A to J: the last clear statement of a letter counts.

    >>> multiple_choice("cais/mmlu", "First I thought the answer is A. The answer is (B).", "B")
    {'score': 1.0, 'acc': 1.0, 'format': 1.0}

Source: the answer sentence "The answer is (X)" and the letters A-J of MMLU-Pro, arXiv 2406.01574; 答案是X as in C-Eval,
arXiv 2305.08322; the patterns, in `common/answers/letters.py`, are our own.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

from common.answers import accepted
from common.answers.letters import only_letters, stated_letters
from common.rewards.result import refuse, scored, unusable

EXPECTED = "a letter A to J, such as B or (B) or B. Paris, or several: A, C"
_FIRST = re.compile(
    r"(?:(?i:option|choice|answer|选项|答案)[\s:是为]*)?[(\[【]?\s?([A-Ja-j])\s?[)\]】]?(?:\s*[.:),、]\s*\S.*|\s*[.)、]?)"
)


def multiple_choice(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    r"""Scores 1.0 when the last clear statement of an answer names the right letter, or just the right letters.

    Clear are "The answer is (B)", "B is correct", "答案是B", "选B", "B正确", "\boxed{B}", "#### B",
    "<answer>B</answer>", and a first or last line that is the letter alone or before its text. "A or B" is no choice.
    An unfinished thought has none.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; its last 20,000 characters count. Anything that is not a string scores 0.
        ground_truth: A letter A to J, alone or before its text: "B", "(B)", "B. Paris"; or several, which must all be
            named, in any order: "A, C", "AC", "A和C", ["A", "C"]. A list of longer texts (["AC", "AD"]) lists answers
            of which any one counts.
        extra_info: Column `extra_info` of the row. Unused.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score` and `acc`, 1.0 or 0.0, and `format`, 1.0 when a letter was named clearly.

    Raises:
        ValueError: If the ground truth does not begin with such a letter.
    """
    if kwargs:
        refuse(kwargs, "multiple_choice", "")
    truths = truth_letters(ground_truth)
    letters = stated_letters(solution_str)
    return scored(letters in truths, letters is not None)


def truth_letters(truth: Any) -> frozenset[frozenset[str]]:
    """Returns the sets of letters that a ground truth accepts.

    Raises:
        ValueError: If it names no letter.
    """
    try:
        texts = tuple(map(str, accepted(truth)))
    except ValueError as error:
        raise unusable("multiple_choice", truth, EXPECTED) from error
    if len(texts) > 1 and texts[0].startswith("["):  # a list in a text: its items
        texts = texts[1:]
    return _letter_sets(texts)


@lru_cache(maxsize=4096)
def _letter_sets(texts: tuple[str, ...]) -> frozenset[frozenset[str]]:
    sets = [_letters(text) for text in texts]
    if len(texts) > 1 and all(len(text.strip("().")) == 1 for text in texts):
        return frozenset({frozenset().union(*sets)})  # ["A", "C"] is an answer of two letters
    return frozenset(sets)


def _letters(text: str) -> frozenset[str]:
    text = unicodedata.normalize("NFKC", text).strip()
    letters = only_letters(text.partition("\n")[0]) if len(text) > 1 else None
    if letters and len(letters) > 1:
        return letters
    found = _FIRST.fullmatch(text.partition("\n")[0])
    if not found:
        raise unusable("multiple_choice", text, EXPECTED)
    return frozenset(found[1].upper())
