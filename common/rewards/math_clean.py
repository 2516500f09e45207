r"""How an answer of mathematics is written: what does not change its meaning is taken off, and it is cut into parts.

>>> cleaned(r"$\left( 3,\; \dfrac{\pi}{2} \right)$.")
'(3,\\frac{\\pi}{2})'
>>> split("(1, 2), (3, 4)")
['(1, 2)', '(3, 4)']
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Currency inside: a private character, so that the dollar of \$36 and the dollars around $x$ are not taken for another.
DOLLAR = "\ue000"
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mathrm|mathbf|mathit|mathsf|mbox|hbox|operatorname)\*?\s*\{([^{}]*)\}"
)
_SIZES = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|rm|bf|it|quad|qquad|thinspace)(?![A-Za-z])\.?(?<!\\\.)"
)
_SIZED_NOTHING = re.compile(r"\\(?:left|right)\s*\.")
_SPACING = re.compile(r"\\[,;:!>]|\\ |~|&nbsp;|\\\\(?=\s*$)|\\(?:hspace|vspace|phantom|hphantom)\*?\{[^{}]*\}")
_SAME = (  # spellings of one thing
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:leqslant|le)(?![A-Za-z])|≤|⩽"), r"\\leq "),
    (re.compile(r"\\(?:geqslant|ge)(?![A-Za-z])|≥|⩾"), r"\\geq "),
    (re.compile(r"\\ne(?![A-Za-z])|≠"), r"\\neq "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:varnothing|O(?=$))|∅"), r"\\emptyset"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\lbrack(?![A-Za-z])"), "["),
    (re.compile(r"\\rbrack(?![A-Za-z])"), "]"),
    (re.compile(r"\\lg(?![A-Za-z])"), r"\\log_{10}"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|\^\s*\{?\s*o\s*\}|℃|\\textdegree|\{\}\^\\circ"), "°"),
    (re.compile(r"\\cdotp(?![A-Za-z])|\\centerdot|·|⋅"), r"\\cdot "),
    (re.compile(r"×|\\ast(?![A-Za-z])"), r"\\times "),
    (re.compile(r"÷"), r"\\div "),
    (re.compile(r"π"), r"\\pi "),
    (re.compile(r"θ"), r"\\theta "),
    (re.compile(r"±"), r"\\pm "),
    (re.compile(r"∞"), r"\\infty "),
    (re.compile(r"∪|\\bigcup(?![A-Za-z_])"), r"\\cup "),
    (re.compile(r"∩"), r"\\cap "),
    (re.compile(r"∈"), r"\\in "),
    (re.compile(r"≈|\\simeq(?![A-Za-z])"), r"\\approx "),
    (re.compile(r"√\s*(\d+(?:\.\d+)?|[A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"√\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\sqrt\s+(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"−|–|—|﹣"), "-"),
    (re.compile(r"\{,\}|\\text\{,\}"), r"\\,"),  # 14{,}916
    (re.compile(r"\\(?:prime)(?![A-Za-z])"), "'"),
    (re.compile(r"\^\s*\{\s*('+)\s*\}"), r"\1"),
)
# Digit groups: 1\,234 and 11,\! 111,\! 100, but not the list 1, 234.
_GROUPS = re.compile(r"(?<![\d.])(\d{1,3}(?:(?:,?(?:\\[,;:!]|\\ |~|\u2009|\u202f|\u00a0|\{,\})+\s?)\d{3})+)(?!\d)")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
_VULGAR = re.compile(r"[¼-¾⅐-⅞]")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_BETWEEN = re.compile(r"(?<=[A-Za-z0-9\u00c0-\u024f])\s+(?=[A-Za-z0-9\u00c0-\u024f])")
_COMMAND_END = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])")


@lru_cache(maxsize=65536)
def cleaned(text: str) -> str:
    r"""Writes an answer in one way: without box, `$`, spacing, sizes, outer spaces, the full stop; units stay.

    Two answers that are word for word the same, but for these, are one text; a unit, a name and a bracket still count.
    """
    text = _SUPERSCRIPT.sub(lambda found: "^{" + unicodedata.normalize("NFKC", found[0]) + "}", text)
    text = _SUBSCRIPT.sub(lambda found: "_{" + unicodedata.normalize("NFKC", found[0]) + "}", text)
    text = _VULGAR.sub(lambda found: " " + unicodedata.normalize("NFKC", found[0]).replace("\u2044", "/"), text)
    text = _GROUPS.sub(lambda found: re.sub(r"\D", "", found[1]), text)
    text = text if text.isascii() else _full_width(text)
    text = opened(text)
    text = _dollars(text)
    text = _SIZED_NOTHING.sub("", text)
    text = _SIZES.sub(" ", text)
    text = _SPACING.sub(" ", text)
    for pattern, one in _SAME:
        text = pattern.sub(one, text)
    text = re.sub(r"\\([%#&_])", r"\1", text)
    text = _BETWEEN.sub(" ", text.strip())
    text = _COMMAND_END.sub(r"\1 ", text)
    text = re.sub(r"(?<![A-Za-z0-9]) +| +(?![A-Za-z0-9])|(?<=[\d,]) +(?=\\)", "", text)
    while len(text) > 1 and text[-1] in ".,;。、;" and not text.endswith("..."):
        text = text[:-1].rstrip()
    return text


def opened(text: str) -> str:
    r"""Takes off what surrounds the whole of a text: a box, `$`, `\(`, bold marks."""
    text = text.strip()
    while True:
        inner = _without_wrapper(text)
        if inner == text:
            return text
        text = inner


def _without_wrapper(text: str) -> str:
    box = _BOX.match(text)
    if box and closing(text, box.end() - 1) == len(text) - 1:
        return text[box.end() : -1].strip()
    for begin, end in _WRAPPERS:
        if len(text) > len(begin + end) and text.startswith(begin) and text.endswith(end):
            inner = text[len(begin) : -len(end)]
            if begin.strip("$") == "" and (inner.endswith("\\") or re.search(r"(?<!\\)\$", inner)):
                continue
            if end not in inner:
                return inner.strip()
    return text


def _dollars(text: str) -> str:
    r"""Writes the dollars of money as `DOLLAR` and takes the others off: `\$36`, `$36` and `$36$` are read."""
    text = text.replace("\\$", DOLLAR)
    if text.count("$") % 2 and re.match(r"[-+]?\s*\$\s*[\d.]", text):
        text = text.replace("$", DOLLAR, 1)
    return text.replace("$", "")


def _full_width(text: str) -> str:
    kept = {"。": ".", "，": ",", "、": "、", "；": ";", "：": ":", "（": "(", "）": ")", "【": "[", "】": "]"}
    return "".join(kept.get(one, unicodedata.normalize("NFKC", one) if "！" <= one <= "～" else one) for one in text)


def without_text(text: str) -> str:
    r"""Takes `\text{...}` off around words that stay: `\text{east}` is east."""
    before = None
    while before != text:
        before, text = text, _TEXT.sub(r"\1", text)
    return text


def closing(text: str, start: int) -> int:
    """Returns where the bracket at `start` is closed; -1 when it is not. Kinds may differ: [0, 1) is a pair."""
    depth, at = 0, start
    while at < len(text):
        character = text[at]
        if character == "\\" and at + 1 < len(text) and text[at + 1] not in "{}":
            at += 2
            continue
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth <= 0:
                return at
        at += 1
    return -1


def split(text: str, signs: str = ",;、，；") -> list[str]:
    """Cuts a text at its commas (or other signs) that are outside of brackets, not at those in brackets."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(0, depth - 1)
        elif not depth and character in signs:
            parts.append(text[start:at].strip())
            start = at + 1
    parts.append(text[start:].strip())
    return parts
