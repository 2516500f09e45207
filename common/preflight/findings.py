"""What the preflight finds: a sentence for a person that keeps its parts for programs."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """What is wrong, and what to do about it ("" when nothing is)."""

    text: str
    fix: str = ""


class Finding(str):
    """``KNOB=value: problem; fix``, with these parts as attributes.

    Args:
        knob: Knob, key or variable; "" when it is of none.
        value: Its value.
        problem: What is wrong, or what to know.
        fix: What to do, "" when nothing is.
    """

    __slots__ = ("fix", "knob", "problem", "value")

    def __new__(cls, knob: str, value: object, problem: str, fix: str = "") -> Finding:
        """Build the sentence from its parts."""
        head = f"{knob}={value}: " if knob else ""
        made = super().__new__(cls, f"{head}{problem}" + (f"; {fix}" if fix else ""))
        made.knob, made.value, made.problem, made.fix = knob, str(value) if knob else "", problem, fix
        return made


class RefusedError(ValueError):
    """A value of a knob that cannot be used.

    Args:
        knob: The knob.
        value: Its value.
        problem: What is wrong.
        fix: What to do.
    """

    def __init__(self, knob: str, value: object, problem: str, fix: str = ""):
        super().__init__(Finding(knob, value, problem, fix))
        self.problem = Problem(problem, fix)


def problem_of(error: Exception) -> Problem:
    """What an error says of a value, without the knob."""
    return error.problem if isinstance(error, RefusedError) else Problem(str(error))


def about(path: object, error: Exception) -> Problem:
    """What an error says of a file, whose path it begins with."""
    return Problem(str(error).removeprefix(f"{path}: "))
