r"""Reward for mathematical answers, compared by value with math-verify: \frac{1}{2} = 0.5, {1,2} = {2,1}.

    >>> math("HuggingFaceH4/MATH-500", r"So the share is $\boxed{\frac{3}{6}}$.", r"\frac{1}{2}")
    {'score': 1.0, 'acc': 1.0, 'format': 1.0}

math-verify limits its time with a signal, which does not work in the threads that verl calls from. Here it runs in a
separate process, which is killed at the limit. Equal texts and whole numbers are compared without it.

Source: math-verify, https://github.com/huggingface/Math-Verify (HendrycksMATH's \boxed{}, arXiv 2103.03874).
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from common.answers import Reading, accepted, final_answer, last_box, read_answer
from common.rewards.math_forms import is_prose, same
from common.rewards.result import refuse, scored, truth_key, unusable
from common.worker import Worker, WorkerDied

LONGEST = 2000  # characters of a box, or of the end of an answer without one, that are looked at
WHOLE = re.compile(r"-?\d{1,18}")
EXPECTED = r"an expression such as 72, \frac{1}{2} or $x^2$, a solution with \boxed{...}, or a list of such"

logger = logging.getLogger(__name__)
_worker = Worker("common.rewards.math_worker")


def math(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    boxed: bool = False,
    timeout_s: float = 5.0,
    **kwargs: Any,
) -> dict[str, float]:
    r"""Scores 1.0 when the last `\boxed{...}` of an answer has the value of the ground truth.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; anything that is not a string scores 0.
        ground_truth: The right answer in LaTeX or plain, as text or number, or a solution with a `\boxed{...}`;
            or several in a list or an object such as `{"target": [...]}`, of which one has to match.
        extra_info: Column `extra_info` of the row. Unused.
        boxed: True wants the box. False lets math-verify find the answer in the last 2,000 characters when there is
            none ("The final answer is $x$").
        timeout_s: Seconds that one answer may take, above 0; it then scores 0, and a warning says so.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score` and `acc`, 1.0 or 0.0, and `format`, 1.0 when there is a box.

    Raises:
        ValueError: If the ground truth is empty, neither text nor number, too long, or keeps math-verify busy.
        WorkerNotStarted: If math-verify cannot be imported; it is in requirements.txt.
    """
    if kwargs:
        refuse(kwargs, "math", "it has boxed and timeout_s")
    truths = _truths(ground_truth if isinstance(ground_truth, str) else truth_key("math", ground_truth, EXPECTED))
    reading = read_answer(solution_str)
    if not reading.layers or (boxed and not reading.is_boxed):
        return scored(False, False)
    return scored(any(_counts(truth, reading, timeout_s) for truth in truths), reading.is_boxed)


def _counts(truth: str, reading: Reading, timeout_s: float) -> bool:
    """Compares what the answer marks as final; without a mark math-verify looks for it in the end of the answer."""
    if any(layer.strip(" \t\n$") == truth.strip(" \t\n$") for layer in reading.layers):
        return True  # word for word: it counts, whatever a parser makes of it
    found = reading.text[:LONGEST]
    if reading.marks or len(reading.text) < 60:
        equal = _same(truth, found, False, timeout_s)
        if equal or equal is None:  # None: it took too long; it would again
            return bool(equal)
        if reading.is_boxed or _spoken(truth) or "tag" in reading.marks:
            return False
    return not _spoken(truth) and bool(_same(truth, reading.layers[0][-LONGEST:], True, timeout_s))


def _spoken(truth: str) -> bool:
    """Tells whether a truth is words or a list, in which math-verify would find a product or a part."""
    return bool(re.search(r"[A-Za-z]{4,}|[A-Z]{2,}|,(?!\d{3})", re.sub(r"\\[A-Za-z]+", "", truth)))


@lru_cache(maxsize=65536)
def _truths(truth: str | tuple) -> tuple[str, ...]:
    """Returns the accepted answers, each out of its box where it is a whole solution."""
    try:
        texts = [str(one).strip() for one in accepted(truth)]
    except ValueError as error:
        raise unusable("math", truth, EXPECTED) from error
    found = tuple(last_box(text) or (final_answer(text) if is_prose(text) else "") or text for text in texts)
    if any(len(text) > LONGEST for text in found):
        raise unusable("math", truth, f"{EXPECTED}, of at most {LONGEST:,} characters")
    return found


@lru_cache(maxsize=65536)
def _same(truth: str, answer: str, whole: bool, timeout_s: float) -> bool | None:
    """Compares two answers; None where math-verify did not come to an end.

    Raises:
        ValueError: If it is the truth that math-verify does not come to an end with.
    """
    if not answer:
        return False
    if not whole:
        if WHOLE.fullmatch(answer) and WHOLE.fullmatch(truth):
            return int(answer) == int(truth)
        known = same(truth, answer)
        if known is not None:
            return known
    try:
        return _worker.ask((truth, answer, whole), timeout_s)
    except TimeoutError:
        logger.warning("math: an answer took longer than %g s and scores 0: %.100r", timeout_s, answer)
    except WorkerDied as error:
        logger.warning("math: math-verify died of an answer, which scores 0: %.100r (%s)", answer, error)
    if not WHOLE.fullmatch(truth) and not _can_be_read(truth, timeout_s):
        raise unusable("math", truth, f"{EXPECTED}, which math-verify reads within {timeout_s:g} s")
    return None


@lru_cache(maxsize=4096)
def _can_be_read(truth: str, timeout_s: float) -> bool:
    """Tells whether math-verify comes to an end with a truth next to an answer that takes no time."""
    try:
        _worker.ask((truth, "0", True), timeout_s)
    except (TimeoutError, WorkerDied):
        return False
    return True
