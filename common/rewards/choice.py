r"""Reward for multiple choice, A to J: the last clear statement of a letter counts.

    >>> multiple_choice("cais/mmlu", "First I thought the answer is A. The answer is (B).", "B")
    {'score': 1.0, 'acc': 1.0, 'format': 1.0}

Source: the answer sentence "The answer is (X)" and the letters A-J of MMLU-Pro, arXiv 2406.01574; 答案是X as in C-Eval,
arXiv 2305.08322; the patterns are our own.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

from common.rewards.result import as_text, refuse, scored, unusable

TAIL = 20_000  # characters at the end that are looked at

# What may stand around a letter, and what may follow it. "The answer is A good idea" names no letter. White space is
# single when these are used, and all repetitions are short, so that no answer makes them slow.
_OPEN = r"[\s*_`\"'$(\[{]{0,8}(?:\\(?:text|textbf|mathrm|mathbf|boxed)\s?\{[\s(]{0,3})?"
_REASON = r"because|since|as|and|or|for|due|given|which|with|is|by|but"
_CLOSE = rf"(?![A-Za-z0-9'’+\-^=])(?!\s+(?!(?:{_REASON})\b)[a-z])"
_LETTER = rf"{_OPEN}(?P<letter>[A-J]){_CLOSE}"
_IS = "is|are|:|=|was|would be|must be|should be"
_BEST = "correct|right|best"
_NOT = r"(?<!not )(?<!n't )(?<!n’t )(?<!不)"
STATEMENTS = [
    re.compile(pattern)
    for pattern in (
        rf"(?i:\b(?:answer|choice|option)\s?(?:{_IS})(?: (?:option|choice)\b)?:?){_LETTER}",
        rf"{_NOT}(?i:\b(?:choose|select|pick)(?: option| choice| answer)?:?){_LETTER}",
        rf"(?i:\b(?:option|choice|answer)) {_OPEN}(?P<letter>[A-J])[)\]*\s]{{1,4}}(?i:is (?:the )?(?:{_BEST}))",
        rf"(?:答案|正确选项|选项)\s?(?:应该|应当|应)?(?:是|为|选|:)[\s:]{{0,2}}(?:选项)?{_LETTER}",
        rf"(?:故|应|应该|因此|所以|答案){_NOT}选择?[\s:]{{0,2}}(?:选项)?{_LETTER}",
        rf"####{_LETTER}",
        r"\\boxed\s?\{[\s({]{0,3}(?:\\(?:text|textbf|mathrm|mathbf)\s?\{)?[\s(]{0,3}"
        r"(?P<letter>[A-Ja-j])(?![A-Za-z0-9^+\-=])",
        r"(?:^|\n)[\s*_`(\[]{0,8}(?P<letter>[A-J])[\s*_`)\].]{0,8}$",  # a last line that is only the letter
    )
]
_FURTHER = re.compile(r"[)\]*\s}]{0,8}(?:or|and|/|,|、|或|和|&)[(\[*\s]{0,8}[A-J](?![A-Za-z0-9'’])")
_TRUTH = re.compile(r"\(?([A-Ja-j])\)?(?:\s*[.:),、].*)?", re.DOTALL)


def multiple_choice(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    r"""Scores 1.0 when the last clear statement of an answer names the right letter.

    Clear are "The answer is (B)", "答案是B", "选B", "\boxed{B}", "#### B", and a last line that is the letter alone.
    "B or C" names two letters, which is no answer.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; its last 20,000 characters count. Anything that is no string scores 0.
        ground_truth: A letter A to J, alone or before its text: "B", "(B)", "B. Paris".
        extra_info: Column `extra_info` of the row. Unused.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score` and `acc`, 1.0 or 0.0, and `format`, 1.0 when a letter was named clearly.

    Raises:
        ValueError: If the ground truth does not begin with such a letter.
    """
    if kwargs:
        refuse(kwargs, "multiple_choice", "")
    truth = _truth(ground_truth if isinstance(ground_truth, str) else repr(ground_truth))
    letter = stated_letter(as_text(solution_str))
    return scored(letter == truth, letter is not None)


def stated_letter(text: str) -> str | None:
    """Returns the letter A to J of the last clear statement, or None when there is none or it names two letters."""
    text = unicodedata.normalize("NFKC", text[-TAIL:])  # Ｂ （B） ： become B (B) :
    text = "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))
    last = None
    for statement in STATEMENTS:
        for found in statement.finditer(text):
            if last is None or found.start("letter") > last.start("letter"):
                last = found
    if last is None or _FURTHER.match(text, last.end("letter")):
        return None
    return last["letter"].upper()


@lru_cache(maxsize=1024)
def _truth(text: str) -> str:
    found = _TRUTH.fullmatch(unicodedata.normalize("NFKC", text).strip())
    if not found:
        raise unusable("multiple_choice", text, "a letter A to J, such as B or (B) or B. Paris")
    return found[1].upper()
