r"""Reward for mathematical answers, compared by value with math-verify: \frac{1}{2} = 0.5, {1,2} = {2,1}.

    >>> math("HuggingFaceH4/MATH-500", r"So the share is $\boxed{\frac{3}{6}}$.", r"\frac{1}{2}")
    {'score': 1.0, 'acc': 1.0, 'format': 1.0}

math-verify limits its time with a signal, which does not work in the threads that verl calls from. Here it runs in a
process of its own, which is killed at the limit. Equal texts and whole numbers are compared without it.

Source: math-verify, https://github.com/huggingface/Math-Verify (HendrycksMATH's \boxed{}, arXiv 2103.03874).
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from common.rewards.result import as_text, refuse, scored, unusable
from common.rewards.worker import Worker, WorkerDied

LONGEST = 2000  # characters of a box, or of the end of an answer without one, that are looked at
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
WHOLE = re.compile(r"-?\d{1,18}")
NUMBER = re.compile(r"[-+]?[\d.,]*\d")
WANTED = r"an expression such as 72, \frac{1}{2} or $x^2$, or a solution with \boxed{...}"

logger = logging.getLogger(__name__)
_worker = Worker("common.rewards.math_worker")


def math(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict | None = None,
    boxed: bool = False,
    timeout_s: float = 5.0,
    **kwargs: Any,
) -> dict[str, float]:
    r"""Scores 1.0 when the last `\boxed{...}` of an answer has the value of the ground truth.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; anything that is no string scores 0.
        ground_truth: The right answer in LaTeX or plain, as text or number, or a solution with a `\boxed{...}`.
        extra_info: Column `extra_info` of the row. Unused.
        boxed: True wants the box. False lets math-verify find the answer in the last 2,000 characters when there is
            none ("The final answer is $x$").
        timeout_s: Seconds that one answer may take, above 0; it then scores 0, and a warning says so.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score` and `acc`, 1.0 or 0.0, and `format`, 1.0 when there is a box.

    Raises:
        ValueError: If math-verify finds nothing in the ground truth, or takes longer than `timeout_s` for it.
        WorkerNotStarted: If math-verify cannot be imported; it is in requirements.txt.
    """
    if kwargs:
        refuse(kwargs, "math", "it has boxed and timeout_s")
    text = as_text(solution_str)
    box = last_box(text)
    if box is None and boxed:
        _truth(ground_truth if isinstance(ground_truth, str) else _as_text(ground_truth), timeout_s)
        return scored(False, False)
    truth = _truth(ground_truth if isinstance(ground_truth, str) else _as_text(ground_truth), timeout_s)
    answer = text[-LONGEST:] if box is None else box
    return scored(_same(truth, answer, box is not None, timeout_s), box is not None)


def last_box(text: str) -> str | None:
    r"""Returns what the last `\boxed{...}` (or `\fbox`) that is closed holds, braces matched; None without one."""
    starts = [found.end() for found in BOX.finditer(text)] if "box" in text else []
    for start in reversed(starts[-3:]):
        depth, escaped = 1, False
        for at in range(start, min(len(text), start + LONGEST + 1)):
            character = text[at]
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == "{":
                depth += 1
            elif character == "}":
                depth -= 1
                if not depth:
                    return text[start:at].strip()
    return None


@lru_cache(maxsize=65536)
def _truth(text: str, timeout_s: float) -> str:
    """Returns the ground truth as math-verify is to read it, after a trial."""
    box = last_box(text)
    truth = text.strip() if box is None else box
    if WHOLE.fullmatch(truth):
        return truth
    if not truth or len(truth) > LONGEST:
        raise unusable("math", text, WANTED)
    try:
        usable = _worker.ask((_as_latex(truth),), timeout_s)
    except TimeoutError as error:
        raise unusable("math", text, f"an expression that math-verify reads in {timeout_s:g} s") from error
    if not usable:
        raise unusable("math", text, WANTED)
    return truth


@lru_cache(maxsize=65536)
def _same(truth: str, answer: str, boxed: bool, timeout_s: float) -> bool:
    if answer == truth:
        return True
    if boxed and WHOLE.fullmatch(answer) and WHOLE.fullmatch(truth):
        return int(answer) == int(truth)
    if not answer:
        return False
    try:
        return _worker.ask((_as_latex(truth), rf"\boxed{{{answer}}}" if boxed else answer), timeout_s)
    except TimeoutError:
        logger.warning("math: an answer took longer than %g s and scores 0: %.100r", timeout_s, answer)
    except WorkerDied as error:
        logger.warning("math: math-verify died of an answer, which scores 0: %.100r (%s)", answer, error)
    return False


def _as_latex(truth: str) -> str:
    """Puts a bare expression into a box, because math-verify looks for LaTeX between marks only.

    A bare number stays bare: 1,22 is a decimal comma then, and a list in LaTeX.
    """
    bare_number = NUMBER.fullmatch(truth)
    return truth if bare_number or re.search(r"\$|\\\(|\\\[", truth) else rf"\boxed{{{truth}}}"


def _as_text(truth: Any) -> str:
    if isinstance(truth, bool) or not isinstance(truth, int | float):
        raise unusable("math", truth, WANTED)
    return str(truth)
