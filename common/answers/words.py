"""Texts compared as SQuAD compares them, but with their numbers and signs whole.

    >>> same_words("THE  Eiffel-Tower!", "eiffel tower"), same_words("3.5", "35")
    (True, False)

Source: SQuAD's evaluation, Rajpurkar et al., arXiv 1606.05250 (lower case, no punctuation, no articles). Ours: full
width and Chinese punctuation, white space only counts between numbers, and what belongs to a number or a name stays:
the point of 3.5, the sign of -5, 1/2, 3:45, 10-12, 5%, C++, x = 5.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from common.answers.number import SUPERSCRIPTS, Number, read_number

_DASHES = str.maketrans({dash: "-" for dash in "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"})
_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" \1/\2"),
    (re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?"), "°"),
    (re.compile(r"(?<=\d)(?:\{,\}|,?\\[,!;: ])(?=\d{3}(?!\d))"), ","),
    (re.compile(r"\\[,!;: ]|~|\\left\b|\\right\b"), " "),
)
# "a" is the article only in small letters or at the start, and only before a word: not in "Vitamin A" or "Plan A".
_ARTICLES = re.compile(r"\b(?:[Tt][Hh][Ee]|[Aa][Nn]|a|(?<![^\W_]\s)(?<!\w)A)\s+(?=\w)")
_PERCENT = re.compile(r"(?<=\d)\s?(?:\\?%|per ?cent\b)", re.IGNORECASE)
_CHINESE_PERCENT = re.compile(r"百分之\s?(\d+(?:\.\d+)?)")
_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_CURRENCY = re.compile("[$€£¥₹]")
_MONEY = re.compile(r"\\?\$")
_TOKENS = re.compile(
    r"(?P<number>(?:(?<![\w)\]}%°'\"])[-+](?=\.?\d))?(?:\d+(?:\.\d+)*|\.\d+)%?)"  # with its sign; also 1.2.3
    r"|(?P<word>[^\W\d_]-(?![\w-])|[^\W\d_]+#(?!\w)|[^\W\d_]+)"  # a grade or blood group (A-), C#, a word
    r"|(?P<between>(?<=\d)\s?[/:*\-]\s?(?=[\d.+\-]))"
    r"|(?P<other>[^\w\s])"  # of these + ^ = < > and what is not punctuation stay
)
_PUNCTUATION = frozenset("!\"#$%&'()*,-./:;?@[\\]_`{|}~，。、；：？！“”‘’（）【】《》「」『』…—·–")


def same_words(answer: str, truth: str) -> bool:
    """Compares two texts; where both are one number, by value (40% = 0.4, 1,234 = 1234.0)."""
    if not keys(answer).isdisjoint(keys(truth)):
        return True
    left, right = _number(answer), _number(truth)
    if left is None or right is None or not left.same(right):
        return False
    return len(set(_CURRENCY.findall(answer + truth))) < 2  # 5 is $5, and €5 is not


@lru_cache(maxsize=65536)
def keys(text: str) -> frozenset[str]:
    """Returns the forms of a text that are compared: 1,234 is one number or a list of two."""
    return frozenset({normalize(text), _normalized(text, groups=False)} - {""})


@lru_cache(maxsize=65536)
def normalize(text: str) -> str:
    """Writes a text without case, articles, punctuation and white space; numbers keep what belongs to them."""
    return _normalized(text, groups=True)


def _normalized(text: str, groups: bool) -> str:
    text = text.translate(SUPERSCRIPTS)
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    text = re.sub(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])", " ", text)  # 1½ is 1 1/2
    text = unicodedata.normalize("NFKC", text.translate(_DASHES)).replace("\u2044", "/")
    text = _CHINESE_PERCENT.sub(r"\1%", _PERCENT.sub("%", _MONEY.sub("", text)))
    text = _ARTICLES.sub(" ", _ARTICLES.sub(" ", text)).lower()
    if groups:
        text = _GROUPS.sub(lambda found: found[0].replace(",", ""), text)
    written, last = "", ""
    for token in _TOKENS.finditer(text):
        kind = token.lastgroup
        if kind == "other" and token[0] in _PUNCTUATION:
            continue
        written += " " if kind == last == "number" else ""
        written += token[0].strip()
        last = kind
    return written


def _number(text: str) -> Number | None:
    """Reads a text that is one number; not one that is a code: 007."""
    return None if re.match(r"0\d", text.strip()) else read_number(text)
