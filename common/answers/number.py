"""Numbers in text, read exactly: 1,800 and $1800.00 and １８００ are one number."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

LONGEST = 200  # characters that are looked at for one number; Python itself refuses integers of 4,300 digits

# One number with no white space in it: sign, currency, thousands commas or plain digits, decimals.
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_SIGNED = rf"(?P<sign>[-+]?)\\?[$€£¥₹]?(?P<sign2>-?)(?P<digits>{_DIGITS})"
PLAIN = re.compile(rf"{_SIGNED}(?P<percent>%?)[$.]?")
# The same at the start of a line: marks around it, a mixed number or a fraction, a per cent sign, then a unit.
LEADING = re.compile(
    r"[ \t*_`\"'(\[$]*(?:\\boxed\{|\\\()?[ \t*$]*"
    rf"{_SIGNED}"
    r"(?:[ ](?P<mixed>\d+/\d+)|[ ]?/[ ]?(?P<below>\d+(?:\.\d+)?))?"
    r"(?P<percent>[ ]?(?:\\?%|percent\b|per cent\b)|)"
    r"(?![\d/]|[.,]\d|[eE][-+]?\d)"  # 12,34 and 1.2.3 and 1e3 are no numbers here, nor is the 1 in 1/2/3
)
ANYWHERE = re.compile(rf"(?<![\w.,/^]){_SIGNED}(?:/(?P<below>\d+(?:\.\d+)?))?(?P<percent>[ ]?\\?%|)(?![\d/]|[.,]\d)")
_SECOND = re.compile(r"(?<![A-Za-z^{\d])\d")  # a further number; not the 2 of m2, km^2 or m^{2}
_VULGAR = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])")
_FRAC = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")


class Number(NamedTuple):
    """A number as it was written.

    Args:
        value: Its value, without the per cent sign.
        percent: A per cent sign stands behind it.
    """

    value: Fraction
    percent: bool = False

    def same(self, other: Number) -> bool:
        """Compares by value; where only one has a per cent sign, 40% equals 40 and 0.4, as in math-verify."""
        if self.value == other.value:
            return True
        if self.percent == other.percent:
            return False
        return self.value / 100 == other.value if self.percent else self.value == other.value / 100


def read_number(text: str) -> Number | None:
    """Reads a text that is one number and nothing else: "1,234", "18.0", "-$5", "40%", "15。".

    Returns:
        The number, or None when the text is anything else: "12,34", "1e3", "15 apples", "".
    """
    found = PLAIN.fullmatch(plain_characters(text.strip()[: LONGEST + 1]))
    return _value(found) if found and len(text) <= LONGEST else None


def leading_number(line: str) -> Number | None:
    """Reads the number at the start of a line; a unit may follow ("18 dollars", "5 km^2"), a second number may not.

    Args:
        line: One line; "18 or 20" gives no number, because two answers are none.
    """
    line = _FRAC.sub(r"\1/\2", plain_characters(line[:LONGEST]))
    found = LEADING.match(line)
    if not found or _SECOND.search(line, found.end()):
        return None
    return _value(found)


def last_number(text: str) -> Number | None:
    """Reads the last number in a text."""
    found = list(ANYWHERE.finditer(plain_characters(text)))
    return _value(found[-1]) if found else None


def plain_characters(text: str) -> str:
    """Writes full-width digits and signs, the minus sign and the fraction slash in ASCII."""
    if text.isascii():
        return text
    text = _VULGAR.sub(" ", text.replace("。", "."))  # 1½ is 1 1/2, and must not become 11/2
    return unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("\u2044", "/")


def _value(found: re.Match[str]) -> Number | None:
    parts = found.groupdict()
    whole, _, decimals = parts["digits"].replace(",", "").partition(".")
    value = Fraction(int(whole + decimals), 10 ** len(decimals))  # several times faster than Fraction("18.50")
    for part, join in (("mixed", Fraction.__add__), ("below", Fraction.__truediv__)):
        if parts.get(part):
            top, _, below = parts[part].partition("/")
            if Fraction(below or top) == 0:
                return None
            value = join(value, Fraction(top) / Fraction(below) if below else Fraction(top))
    negative = "-" in parts["sign"] + parts["sign2"]
    return Number(-value if negative else value, bool(parts["percent"]))
