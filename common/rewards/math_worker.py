"""The process behind the reward ``math``: compares with math-verify, without its signals, and guards what it says."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from common.rewards.math_forms import same
from common.worker import serve

MEMORY_BYTES = 4 << 30  # a power tower ends in a MemoryError and not in the kernel killing the trainer
_NOT_READ = re.compile(r"\\(?:equiv|pmod|bmod|mod|mid|nmid|pmatrix|where)(?![A-Za-z])")  # read in part, silently


def prepare() -> Callable[[tuple[str, str, bool]], bool]:
    """Imports math-verify and returns the function that answers.

    Its questions are ``(truth, answer, whole)``; ``whole`` has math-verify look for the answer in a text.
    """
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)  # math-verify warns that it has no time limit; the parent is the limit
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    @lru_cache(maxsize=4096)
    def parsed(text: str) -> list:
        return parse(text, parsing_timeout=None)

    def equal(truth: str, answer: str) -> bool:
        values, others = parsed(truth), parsed(answer)
        if not verify(values, others, timeout_seconds=None):
            return False
        return not (values and others and differ(values[0], others[0]))

    def decide(truth: str, answer: str) -> bool:
        if _NOT_READ.search(truth) or _NOT_READ.search(answer):
            return False
        return equal(f"${truth}$", f"${answer}$")

    def answer(question: tuple[str, str, bool]) -> bool:
        truth, text, whole = question
        try:
            return equal(f"${truth}$", text) if whole else bool(same(truth, text, decide))
        except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError):
            return False  # math-verify stumbles over the answer: it is not the truth

    parsed("$1/2$")  # builds the grammar's tables before a limit runs
    return answer


def differ(one: Any, other: Any) -> bool:
    """Tells whether two values without variables are apart by more than a millionth of the larger one.

    math-verify rounds to six places, so that to it all tiny numbers are equal.
    """
    from sympy import Expr

    if not (isinstance(one, Expr) and isinstance(other, Expr)) or one.free_symbols or other.free_symbols:
        return False
    try:
        a, b = complex(one.doit().evalf(30)), complex(other.doit().evalf(30))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False
    if min(abs(a), abs(b)) == 0:
        return max(abs(a), abs(b)) > 1e-25
    apart = abs(a - b) / max(abs(a), abs(b))
    return apart > 1e-5 and abs(a * 100 - b) > 1e-5 * abs(b) and abs(b * 100 - a) > 1e-5 * abs(a)


if __name__ == "__main__":
    serve(prepare)
