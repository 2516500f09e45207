"""Rewards that compare texts: exactly, after normalising, or with a regular expression.

>>> normalized_match("squad", "<answer>The  Eiffel Tower!</answer>", "eiffel tower")
{'score': 1.0, 'acc': 1.0, 'format': 1.0}
"""

from __future__ import annotations

import logging
import re
import string
import unicodedata
from functools import lru_cache
from typing import Any

from common.rewards.gsm8k import MARK
from common.rewards.math_reward import last_box
from common.rewards.result import as_text, refuse, scored, unusable

LONGEST = 10_000  # characters of a text that is normalised; a longer answer is not the right one
WANTED = "a text that is not empty, a number, or a list of such"
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
CHINESE_PUNCTUATION = "，。、；：？！“”‘’（）【】《》「」『』…—·"
PUNCTUATION = str.maketrans("", "", string.punctuation + CHINESE_PUNCTUATION)
# <think> reasoning, then <answer>: the form of DeepSeek-R1.
THINK_ANSWER = r"\s*<think>.*?</think>\s*<answer>.*?</answer>\s*"

logger = logging.getLogger(__name__)


def exact_match(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    r"""Scores 1.0 when the final answer is the ground truth, character by character.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer. What it marks as final counts: the last `<answer>...</answer>`, else the line
            behind the last `####`, else the last `\boxed{...}`, else all of it; white space around it does not.
        ground_truth: A text or number, or a list of them, of which one has to match.
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
    answer = final_answer(as_text(solution_str))
    return scored(answer in truths, answer != "")


def normalized_match(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    """Scores 1.0 when the final answer is the ground truth but for case, articles, punctuation and white space.

    Source: SQuAD's evaluation, Rajpurkar et al., arXiv 1606.05250; full-width characters and Chinese punctuation are
    our addition.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; see `exact_match` for what of it counts.
        ground_truth: A text or number, or a list of them, of which one has to match.
        extra_info: Column `extra_info` of the row. Unused.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score` and `acc`, 1.0 or 0.0, and `format`, 1.0 when the final answer is not empty.

    Raises:
        ValueError: If the ground truth is empty, also after normalising, or neither text nor number.
    """
    if kwargs:
        refuse(kwargs, "normalized_match", "")
    truths = {_normalized_truth(truth) for truth in _truths("normalized_match", ground_truth)}
    answer = final_answer(as_text(solution_str))
    correct = len(answer) <= LONGEST and normalize(answer) in truths
    return scored(correct, answer != "")


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
        solution_str: The model's answer; anything that is no string scores 0.
        ground_truth: Unused.
        extra_info: Column `extra_info` of the row. Unused.
        pattern: Regular expression (module `regex`; `.` also stands for a line end) that the whole answer has to
            match. The default is `<think>...</think><answer>...</answer>`.
        max_chars: Longer answers score 0, in characters.
        timeout_s: Seconds until a search that runs away is given up; it scores 0, and a warning says so. The module
            `regex` checks the clock while it searches, so this also works in a thread.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        1.0 or 0.0.

    Raises:
        ValueError: If the pattern is no regular expression.
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


def final_answer(text: str) -> str:
    r"""Returns what an answer marks as final: `<answer>`, else `####`, else `\boxed{}`, else all of it."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    if start >= 0:
        return text[start + len("<answer>") : end].strip()
    if MARK in text:
        return text[text.rfind(MARK) + len(MARK) :].split("\n", 1)[0].strip()
    box = last_box(text)
    return text.strip() if box is None else box


def normalize(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces, full-width characters as ASCII."""
    text = unicodedata.normalize("NFKC", text).lower().translate(PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", text).split())


def _truths(reward: str, truth: Any) -> list[str]:
    """Returns the accepted answers; verl hands over a list of the data set as a list or a numpy array."""
    several = truth.tolist() if hasattr(truth, "tolist") else truth
    several = list(several) if isinstance(several, list | tuple) else [several]
    if not several:
        raise unusable(reward, truth, WANTED)
    for one in several:
        if isinstance(one, bool) or not isinstance(one, str | int | float) or not str(one).strip():
            raise unusable(reward, truth, WANTED)
    return [str(one).strip() for one in several]


@lru_cache(maxsize=65536)
def _normalized_truth(text: str) -> str:
    truth = normalize(text)
    if not truth:
        raise unusable("normalized_match", text, "more than articles and punctuation; use exact_match for those")
    return truth


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    import regex

    try:
        return regex.compile(pattern, regex.DOTALL)
    except (regex.error, TypeError) as error:
        raise ValueError(f"pattern={pattern!r}: format_match needs a regular expression: {error}") from error
