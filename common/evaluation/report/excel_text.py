"""Texts that a workbook can hold. They are written as texts, so none of them is computed there."""

from __future__ import annotations

import re

LONGEST = 32_767  # UTF-16 units that Excel holds in a cell
_NOT_IN_XML = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_CUT = "; JSONL holds them all]"


def cell_text(text: str) -> tuple[str, bool]:
    """Return a text for a cell, and whether it had to be cut.

    Control characters become their pictures (ESC is shown as the sign for it), halves of surrogate pairs the
    replacement character; longer texts end with a remark.
    """
    if not text.isprintable():
        text = _NOT_IN_XML.sub(_picture, text.replace("\r\n", "\n"))
    if len(text) * 2 <= LONGEST or units(text) <= LONGEST:
        return text, False
    remark = f" … [cut: {len(text):,} characters{_CUT}"
    kept = text.encode("utf-16-le")[: 2 * (LONGEST - len(remark))].decode("utf-16-le", "ignore")
    return kept + remark, True


def was_cut(text: str) -> bool:
    """Whether ``cell_text`` cut a text."""
    return text.endswith(_CUT)


def units(text: str) -> int:
    """Length as Excel counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "replace")) // 2


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def width(text: str) -> int:
    """Columns that a text takes in a fixed-width font: Chinese characters take two."""
    return len(text) if text.isascii() else len(text.encode("gb18030", "replace"))
