"""Texts of runs as the page can show them: carried by JSON, and with nothing in them that turns their surroundings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_HALVES = re.compile("[\ud800-\udfff]")  # in no UTF-8; Python reads bytes of a file name and ``"\ud800"`` of JSON so
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")  # U+202E and its kin: "gnp.exe" would be shown as "exe.png"


def carried(text: str) -> str:
    r"""The text with bytes of a file name that are not UTF-8 as ``\xff``, and other halves of pairs as U+FFFD."""
    return text if text.isascii() else _HALVES.sub(_shown, text)


def plain(text: str) -> str:
    r"""The text as it is carried, and with letters that change the direction of writing as ``\u202e``."""
    return text if text.isascii() else _TURNS.sub(lambda found: f"\\u{ord(found[0]):x}", carried(text))


def plain_tree(node: Any, change: Callable[[str], str] = plain) -> Any:
    """What JSON or YAML has read, with every text in it plain.

    Args:
        node: The value.
        change: `carried` leaves the direction of writing as it is.
    """
    if isinstance(node, str):
        return change(node)
    if isinstance(node, dict):
        return {plain_tree(key, change): plain_tree(value, change) for key, value in node.items()}
    return [plain_tree(value, change) for value in node] if isinstance(node, list) else node


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0]) - 0xDC00
    return f"\\x{code:02x}" if 0x80 <= code <= 0xFF else "\ufffd"
