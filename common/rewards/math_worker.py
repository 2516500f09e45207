"""The process behind the reward ``math``: parses and compares with math-verify, without its signals."""

from __future__ import annotations

import resource
from collections.abc import Callable
from functools import lru_cache

from common.rewards.worker import serve

MEMORY_BYTES = 4 << 30  # a power tower ends in a MemoryError and not in the kernel killing the trainer


def prepare() -> Callable[[tuple[str, ...]], bool]:
    """Imports math-verify and returns the function that answers.

    Its questions are ``(truth,)``: can this ground truth be used? and ``(truth, answer)``: are they the same?
    """
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)  # math-verify warns that it has no time limit; the parent is the limit
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    @lru_cache(maxsize=4096)
    def parsed(text: str) -> list:
        return parse(text, parsing_timeout=None)

    def answer(question: tuple[str, ...]) -> bool:
        truth = parsed(question[0])
        # A power tower is read at once and runs away when it is compared, so a truth on trial is compared with a half.
        same = verify(truth, parsed(question[1]) if len(question) > 1 else half, timeout_seconds=None)
        return same if len(question) > 1 else bool(truth)

    half = parsed(r"\boxed{\frac{1}{2}}")  # also builds the grammar's tables before a limit runs
    return answer


if __name__ == "__main__":
    serve(prepare)
