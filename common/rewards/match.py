"""Rewards that compare texts: exactly, after normalising, or with a regular expression.

>>> normalized_match("squad", "<answer>The  Eiffel Tower!</answer>", "eiffel tower")
{'score': 1.0, 'acc': 1.0, 'format': 1.0}
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from common.answers import accepted, marked_answer, read_answer
from common.answers.words import same_words
from common.rewards.result import as_text, refuse, scored, unusable

LONGEST = 10_000  # characters of a text that is normalised; a longer answer is not the right one
EXPECTED = "a text that is not empty, a number, or a list of such"
# <think> reasoning, then <answer>: the form of DeepSeek-R1, each of them once.
_INSIDE = r"(?:(?!</?(?:think|answer)>).)*+"
THINK_ANSWER = rf"\s*<think>{_INSIDE}</think>\s*<answer>{_INSIDE}</answer>\s*"

logger = logging.getLogger(__name__)


def exact_match(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    r"""Scores 1.0 when the final answer is the ground truth, character by character.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer. What it marks as final behind its thought counts: `<answer>...</answer>`, the
            line behind `####`, `\boxed{...}`, "the answer is ...", bold text at the end, marks inside marks opened from
            the outside in; without a mark all of it. White space around it does not count.
        ground_truth: A text or number, or several in a list or an object such as `{"target": [...]}`, of which one
            has to match.
        extra_info: Column `extra_info` of the row. Unused.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score` and `acc`, 1.0 or 0.0, and `format`, 1.0 when the final answer is not empty.

    Raises:
        ValueError: If the ground truth is empty or neither text nor number.
    """
    if kwargs:
        refuse(kwargs, "exact_match", "")
    truths = _truths("exact_match", ground_truth)
    reading = read_answer(solution_str)
    return scored(not truths.isdisjoint(reading.layers), reading.text != "")


def normalized_match(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    """Scores 1.0 when the final answer is the ground truth but for case, articles, punctuation and white space.

    Numbers stay whole: 3.5 is not 35, -5 not 5, 1/2 not 12; two texts that are one number each are compared by value.

    Source: SQuAD's evaluation, Rajpurkar et al., arXiv 1606.05250; see `common/answers/words.py` for what is ours.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; see `exact_match` for what of it counts.
        ground_truth: As in `exact_match`.
        extra_info: Column `extra_info` of the row. Unused.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score` and `acc`, 1.0 or 0.0, and `format`, 1.0 when the final answer is not empty.

    Raises:
        ValueError: If the ground truth is empty or neither text nor number.
    """
    if kwargs:
        refuse(kwargs, "normalized_match", "")
    truths = _truths("normalized_match", ground_truth)
    reading = read_answer(solution_str)
    layers = [layer for layer in reading.layers if len(layer) <= LONGEST]
    correct = any(layer == truth or same_words(layer, truth) for layer in layers for truth in truths)
    return scored(correct, reading.text != "")


def format_match(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    pattern: str = THINK_ANSWER,
    max_chars: int = 200_000,
    timeout_s: float = 1.0,
    **kwargs: Any,
) -> float:
    """Scores 1.0 when the whole answer has a form.

    Source: the format reward of DeepSeek-R1, arXiv 2501.12948, section 2.2.2.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; anything that is not a string scores 0.
        ground_truth: Unused.
        extra_info: Column `extra_info` of the row. Unused.
        pattern: Regular expression (module `regex`; `.` also matches a line end) that the whole answer has to
            match. The default is `<think>...</think><answer>...</answer>`, each of them once: a second block is
            another form.
        max_chars: Longer answers score 0, in characters.
        timeout_s: Seconds until a search that runs away is given up; it scores 0, and a warning says so. The module
            `regex` checks the clock while it searches, so this also works in a thread.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        1.0 or 0.0.

    Raises:
        ValueError: If the pattern is not a regular expression.
    """
    if kwargs:
        refuse(kwargs, "format_match", "it has pattern, max_chars and timeout_s")
    compiled = _compiled(pattern)
    text = as_text(solution_str)
    if not text or len(text) > max_chars:
        return 0.0
    try:
        return float(compiled.fullmatch(text, timeout=timeout_s, concurrent=True) is not None)
    except TimeoutError:
        logger.warning("format_match: pattern=%r ran over %g s and scores 0: %.60r", pattern, timeout_s, text)
        return 0.0


def _truths(reward: str, truth: Any) -> frozenset[str]:
    """Returns the accepted answers, each also without the marks around it: a solution that ends in `#### 18` is 18."""
    try:
        texts = [str(one).strip() for one in accepted(truth)]
    except ValueError as error:
        raise unusable(reward, truth, EXPECTED) from error
    return frozenset(texts + [marked for text in texts if (marked := marked_answer(text))])


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    import regex

    try:
        return regex.compile(pattern, regex.DOTALL)
    except (regex.error, TypeError) as error:
        raise ValueError(f"pattern={pattern!r}: format_match needs a regular expression: {error}") from error
