"""The process behind the reward ``reasoning_gym`` for tasks whose scorers work an answer out: it can be killed."""

from __future__ import annotations

import resource
from collections.abc import Callable

from common.data.generator import generated, gym
from common.worker import address_space, serve

MEMORY_BYTES = 4 << 30  # above what the imports take; a power tower ends in a MemoryError
Question = tuple[tuple[str, int, int, int, str], str]


def prepare() -> Callable[[Question], float]:
    """Imports the package and returns the function that scores; it takes (arguments of `generated`, answer)."""
    gym()
    limit = address_space() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return score


def score(question: Question) -> float:
    """What the task's scorer gives an answer; 0 where it stumbles over it."""
    row, answer = question
    dataset, entry = generated(*row)
    try:
        return float(dataset.score_answer(answer, entry=entry))
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return 0.0


if __name__ == "__main__":
    serve(prepare)
