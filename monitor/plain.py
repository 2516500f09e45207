"""Texts of runs that JSON can carry to the browser; one that it cannot would take the whole page down."""

from __future__ import annotations

import re
from typing import Any

_HALVES = re.compile("[\ud800-\udfff]")  # in no UTF-8; Python reads bytes of a file name and ``"\ud800"`` of JSON so


def plain(text: str) -> str:
    r"""The text with bytes of a file name that are no UTF-8 as ``\xff``, and other halves of pairs as U+FFFD."""
    return text if text.isascii() else _HALVES.sub(_shown, text)


def plain_tree(node: Any) -> Any:
    """What JSON or YAML has read, with every text in it plain."""
    if isinstance(node, str):
        return plain(node)
    if isinstance(node, dict):
        return {plain_tree(key): plain_tree(value) for key, value in node.items()}
    return [plain_tree(value) for value in node] if isinstance(node, list) else node


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0]) - 0xDC00
    return f"\\x{code:02x}" if 0x80 <= code <= 0xFF else "\ufffd"
