"""How deep the values of a row may be nested: Python's own limit would end the program, somewhere behind the reader."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 100  # lists and objects in one another; descriptions of tools have about 10
TOO_DEEP = f"is nested too deeply (a value may have {MAX_DEPTH} lists and objects in one another)"


def too_deep(value: Any) -> bool:
    """Whether a value is nested deeper than ``MAX_DEPTH``; looks without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for one in level
            if type(one) in (dict, list)
            for inner in (one.values() if type(one) is dict else one)
            if type(inner) in (dict, list)
        ]
        if not level:
            return False
    return True


def parsed(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: If it is not JSON, or nested deeper than ``MAX_DEPTH``.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and too_deep(value):
        raise ValueError(TOO_DEEP)
    return value
