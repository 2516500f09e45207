"""Numbers in text, read exactly: 1,800 and $1800.00 and １８００ are one number, and so are 3万 and 30,000."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

LONGEST = 200  # characters that are looked at for one number; Python itself refuses integers of 4,300 digits

# Words behind a number that are part of it. Not 千克 and 千米, which are units, nor 百分.
_WORDS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "k": 3}
_CHARACTERS = {"百": 2, "千": 3, "万": 4, "萬": 4, "亿": 8, "億": 8}
_SCALE = (
    r"(?P<scale>(?:[ ](?:hundred|thousand|million|billion|trillion))+\b|k(?![A-Za-z])"
    r"|[ ]?(?:百(?!分)|千(?![克米瓦卡焦帕伏赫字])|[万萬亿億])+)"
)
# One number with no white space in it: sign, currency, digit groups or plain digits, decimals.
_GROUPS = r"\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|[1-9]\d{0,2}(?: \d{3})+"
_DIGITS = rf"(?:(?:{_GROUPS})(?!\d|[ ,]\d)|\d+)(?:\.\d+)?|\.\d+"
_MONEY = r"(?:(?:US|HK|RMB)?\\?[$€£¥₹][ ]?|RMB[ ]?)?"
_SIGNED = rf"(?P<sign>[-+]?){_MONEY}(?P<sign2>-?)(?P<digits>{_DIGITS})"
_PART = r"(?:[ ](?P<mixed>\d+/\d+)|[ ]?/[ ]?(?P<below>\d+(?:\.\d+)?))?"  # a mixed number or a fraction
_PERCENT = r"(?P<percent>[ ]?(?:\\?%|percent\b|per cent\b)|)"
WHOLE = re.compile(rf"(?P<hundredths>百分之)?{_SIGNED}{_PART}{_SCALE}?{_PERCENT}[$.]?")
# The same at the start of a line: marks around it, then a unit.
LEADING = re.compile(
    r"[ \t*_`\"'(\[$]*(?:\\boxed\{|\\\()?[ \t*$]*"
    rf"(?P<hundredths>百分之)?{_SIGNED}{_PART}{_SCALE}?{_PERCENT}"
    r"(?![\d/]|[.,]\d|[eE][-+]?\d)"  # 12,34 and 1.2.3 and 1e3 are not numbers here, nor is the 1 in 1/2/3
)
ANYWHERE = re.compile(rf"(?<![\w.,/^])(?P<hundredths>百分之)?{_SIGNED}{_PART}{_SCALE}?{_PERCENT}(?![\d/]|[.,]\d)")
_SECOND = re.compile(r"(?<![A-Za-z^{\d])\d")  # a further number; not the 2 of m2, km^2 or m^{2}
SUPERSCRIPTS = str.maketrans({power: f"^{digit}" for digit, power in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")})
_VULGAR = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])")
_FRAC = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
_LATEX_GROUP = re.compile(r"(?<=\d)(?:\{,\}|,?\\[,!;: ]|\\text\{,\})(?=\d{3}(?!\d))")


class Number(NamedTuple):
    """A number as it was written.

    Args:
        value: Its value, without the per cent sign.
        percent: A per cent sign follows it.
    """

    value: Fraction
    percent: bool = False

    def same(self, other: Number) -> bool:
        """Compares by value; where only one has a per cent sign, 40% equals 40 and 0.4."""
        if self.value == other.value:
            return True
        if self.percent == other.percent:
            return False
        return self.value / 100 == other.value if self.percent else self.value == other.value / 100


def read_number(text: str) -> Number | None:
    """Reads a text that is one number and nothing else: "1,234", "18.0", "-$5", "40%", "1/2", "3 million", "15。".

    Returns:
        The number, or None when the text is anything else: "12,34", "1e3", "15 apples", "".
    """
    found = WHOLE.fullmatch(plain_characters(text.strip()[: LONGEST + 1]))
    return _value(found) if found and len(text) <= LONGEST else None


def leading_number(line: str) -> Number | None:
    """Reads the number at the start of a line; a unit may follow ("18 dollars", "18元"), a second number may not.

    Args:
        line: One line; "18 or 20" gives no number, because two answers are none.
    """
    line = plain_characters(line[:LONGEST])
    found = LEADING.match(line)
    if not found or _SECOND.search(line, found.end()):
        return None
    return _value(found)


def last_number(text: str) -> Number | None:
    """Reads the last number in a text."""
    found = list(ANYWHERE.finditer(plain_characters(text)))
    return _value(found[-1]) if found else None


def plain_characters(text: str) -> str:
    r"""Writes full-width digits and signs, the minus sign, fractions and LaTeX's digit groups plainly, in ASCII."""
    if "\\" in text or "{,}" in text:
        text = _LATEX_GROUP.sub(",", _FRAC.sub(r"\1/\2", text))
    if text.isascii():
        return text
    text = text.translate(SUPERSCRIPTS)  # 10² must not become 102
    text = _VULGAR.sub(" ", text.replace("。", "."))  # 1½ is 1 1/2, and must not become 11/2
    return unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("\u2044", "/")


def _value(found: re.Match[str]) -> Number | None:
    parts = found.groupdict()
    whole, _, decimals = parts["digits"].replace(",", "").replace(" ", "").partition(".")
    value = Fraction(int(whole + decimals), 10 ** len(decimals))  # several times faster than Fraction("18.50")
    for part, join in (("mixed", Fraction.__add__), ("below", Fraction.__truediv__)):
        if parts.get(part):
            top, _, below = parts[part].partition("/")
            if Fraction(below or top) == 0:
                return None
            value = join(value, Fraction(top) / Fraction(below) if below else Fraction(top))
    if parts["scale"]:
        value *= 10 ** _zeros(parts["scale"])
    negative = "-" in parts["sign"] + parts["sign2"]
    return Number(-value if negative else value, bool(parts["percent"] or parts["hundredths"]))


def _zeros(scale: str) -> int:
    """Returns the zeros that " hundred million" or 百万 adds to a number."""
    words = scale.split()
    return sum(_WORDS[word] if word in _WORDS else sum(_CHARACTERS[one] for one in word) for word in words)
