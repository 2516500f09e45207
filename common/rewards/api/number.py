"""One score in a text, read whole or not at all: half of a number is worse than none.

Read are Arabic digits, ASCII or of full width, with a sign, decimals, groups of three, an exponent. Chinese numerals,
number words, fractions, ranges and decimal commas are not: the reply then holds no score.
"""

from __future__ import annotations

import math
import re

DIGITS = 30  # of a number; more cannot be a score
_WIDE = str.maketrans(
    dict(zip("０１２３４５６７８９．，：／－＋％−–—〜～（）", "0123456789.,:/-+%---~~()", strict=True))
)
NUMBER = re.compile(
    rf"[-+]?(?:[1-9][0-9]{{0,2}}(?:,[0-9]{{3}}){{1,9}}(?:\.[0-9]{{1,{DIGITS}}})?"
    rf"|[0-9]{{1,{DIGITS}}}(?:\.[0-9]{{0,{DIGITS}}})?|\.[0-9]{{1,{DIGITS}}})(?:[eE][-+]?[0-9]{{1,4}})?"
)
_UNIT = re.compile(r"\s{0,3}(?:points?|pts|stars?|marks?|分|星)(?![A-Za-z])", re.IGNORECASE)
# "8/10", "8 out of 10", "8 (满分 10": right where the second number is the top of the range, else another scale.
_TOP = re.compile(
    rf"\s{{0,3}}\(?\s?(?:/|out of|of|满分|共)\s{{0,3}}[:为]?\s?([0-9]{{1,{DIGITS}}}(?:\.[0-9]{{1,{DIGITS}}})?)"
    r"(?:\s?(?:points?|pts|分))?\)?(?![0-9%/]|[.,][0-9])",
    re.IGNORECASE,
)
# Before a number: it began earlier, or it is a bound.
_BEFORE = re.compile(r"[0-9.]$|[0-9],$|(?:^|[^\w\s])[-+]$|\s[-+~]$|[>≤≥≈]$")
# What makes of the digits before it another number: a range, a sum, a fraction, a power, a second number.
_GOES_ON = re.compile(
    r"[A-Za-z0-9_^²³]|\s?[½¼¾⅓⅔]|[.,:][0-9]|[-+~/*×%](?![-*\s])|[十百千万亿半多几余]|点[0-9零〇一二三四五六七八九]"
    r"|\s{0,3}(?:[-+~/*×±]|[-=]?>|→|⇒|\.\.+|to|or|and|minus|plus|或者?|和|到|至|减)\s{0,3}[-+]?\.?[0-9]"
    r"|,?\s{1,3}[-+]?\.?[0-9]|\s{0,3}\(?(?:/|out of|of|满分|共)\s{0,3}[:为]?\s?[0-9]"
    r"|\s{0,3}(?:%|percent|per cent|thousand|million|hundred|half|and a half|point\b)"
    r"|[^\n0-9]{0,40}(?:\b(?:actually|rather|no|wait|correction|make it|change)\b|改为|应为|更正)[^\n0-9]{0,20}[0-9]",
    re.IGNORECASE,
)


def plain(text: str) -> str:
    """The text with digits, signs, brackets and colons of full width as in ASCII, each character in its place."""
    return text.translate(_WIDE)


def read_number(text: str, start: int, high: float) -> float | None:
    """Read the number that begins at a place of a text (of `plain`).

    Args:
        text: Digits, thousands groups, decimals, exponents; a unit or the top of the range may follow (``8/10``).
        start: Where it begins; a digit, point or sign before it means that it began earlier.
        high: Highest score: ``8/10`` is 8 where it is 10, ``80%`` is 80 where it is 100.

    Returns:
        The number, in or out of the range; None when there is none, or it cannot be told where it ends
        (``7-8``, ``8²``, ``8 1/2``, ``1,00``, ``8/100`` of 10).
    """
    found = NUMBER.match(text, start)
    before = text[max(0, start - 2) : start]
    if found is None or _BEFORE.search(before) or (before[-1:] == "<" and text[found.end() : found.end() + 1] != ">"):
        return None
    rest = text[found.end() : found.end() + 120].split("\n", 1)[0].lstrip("*`_")
    unit = _UNIT.match(rest)
    rest = rest[unit.end() :] if unit else rest
    top = _TOP.match(rest)
    if top:
        if float(top[1]) != high:
            return None
        rest = rest[top.end() :]
    elif high == 100 and re.match(r"\s?%", rest):
        rest = rest.lstrip()[1:]
    if _GOES_ON.match(rest):
        return None
    number = float(found[0].replace(",", ""))
    return number if math.isfinite(number) else None
