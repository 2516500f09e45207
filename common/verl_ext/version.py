"""verl's version: the pin in ``requirements.txt`` is the only place that says it."""

from __future__ import annotations

import re
from pathlib import Path

PINS = Path(__file__).resolve().parents[2] / "requirements.txt"


def pinned(package: str = "verl") -> str:
    """The version that ``requirements.txt`` pins.

    Raises:
        ValueError: If it pins none.
    """
    found = re.search(rf"^{re.escape(package)}==([^\s;#]+)", PINS.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ValueError(f"{PINS}: no line {package}==VERSION; put the version back that this kit is made for")
    return found[1]


def installed(package: str = "verl") -> str:
    """The version that is installed, ``none`` where there is none."""
    from importlib.metadata import PackageNotFoundError, version  # each Ray worker imports this module

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
