r"""The letters of multiple choice, A to J, that an answer states.

    >>> sorted(stated_letters("First I thought the answer is A. The answer is (B)."))
    ['B']

A statement is a head ("the answer is", 故选) before letters, or a tail ("is correct", 正确) behind them; a box, a
`####` line or a line that is nothing but letters states them too. The last statement counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

from common.answers.final import tagged
from common.answers.thought import behind_thought

TAIL = 20_000  # characters at the end that are looked at

# The text is plain when these are used: NFKC, single spaces, no bold marks and no $, and \boxed{x} written as ⟦x⟧.
# All repetitions are short, so that no answer makes them slow.
_BEFORE = r"[\s\"'“‘(\[{【「《⟦]{0,6}"
_NOUN = r"(?:(?i:\b(?:both|options?|choices?|letters?|answers?))[\s:]?|选项|选)?"
_OPEN = rf"{_BEFORE}{_NOUN}{_BEFORE}"
_SHUT = r"[)\]}】」》\"'”’⟧]{0,4}"
_END = r"(?![A-Za-z0-9_^\\{]|['’][A-Za-z]|\((?:\d|[A-Za-z][,)]))"  # not in a word, A's, C(5,2), f(x)
_LETTERS = re.compile(rf"{_OPEN}(?<![A-Za-z0-9_\\])(?P<letters>[A-J]{{1,8}}|[a-j]){_END}")
_SEPARATOR = re.compile(
    rf"{_SHUT}\s?(?P<sign>[,、;&/]|\band\b|\bor\b|和|与|及|或)\s?(?P<or>and\b|or\b|和|或)?"
    r"|(?P<none>[)\]】](?=[(\[【])|\s(?=[A-J](?:\s[A-J])*\s?[.。]?(?:\n|$)))"  # (A)(C), or A C and the line ends
)
# What follows letters that are not stated: "A good idea", "A = 5", "A-frame", A的.
_NOT_BEHIND = re.compile(
    rf"{_SHUT}(?:\s?(?:[=+<>×·^≠≈∈]|\\[a-z])|[-*](?=[A-Za-z0-9])"
    r"|的|吗|呢|\s?\?)"
    r"|\s(?!(?:because|since|as|and|or|for|due|given|which|with|is|by|but|not|instead|rather|over|from)\b)[a-z]"
)
_BEGINS_A_CLAUSE = re.compile(rf"{_SHUT}\s?(?:选项|项|是|错|不|也|\b(?:is|are|was|has|does|says|can|cannot|would)\b)")
_ENDS = re.compile(rf"{_SHUT}\s?(?:[.,;:!。)\n]|$)")

_MAY = r"(?:would|must|should|will|could|can|might|may|has to|have to|seems to|appears to) be"
_VERB = rf"[\"'”]?\s?(?:is|are|was|{_MAY}|:|=|-)"
_ADVERB = r"(?:\s?(?:likely|probably|clearly|therefore|thus|definitely|indeed|actually|simply|only|:))?"
_ABOUT = r"(?:\s(?:to|of|for|in|here|that|i|we)\b[^.:,\n?]{0,80}?)?"
HEADS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\banswers?(?: choices?| options?)?{_ABOUT}\s?{_VERB}{_ADVERB}\s?",
        rf"\b(?:correct|right|best|option|choice|solution|statement|ans)(?:\s(?:option|choice|statement|letter|one)s?)?"
        rf"{_ABOUT}\s?{_VERB}{_ADVERB}\s?",
        r"\b(?:choose|select|pick|chose|selected|picked|go(?:ing)? with|opt for|answer with)\b:?\s?(?:the\s)?",
        r"\b(?:is|matches|corresponds to|gives)\s(?=(?:option|choice)\s)",
        r"\bnot (?:option )?\(?[A-J]\)?,? but(?: rather)?\s",
        r"(?:答案|正解|(?:正确|最佳|最合适)的?(?:选项|一项)|(?:正确|错误|符合题意|合适|恰当)的(?:一项)?(?=是|为))[】\]]?\s?"
        r"(?:应该|应当|应|就|只能)?(?:是|为|选|:)?\s?:?\s?",
        r"(?:选择?|选取)(?:的(?:是|为)|了|是|:)?\s?(?:答案)?:?\s?",
    )
]
# "So B.", 故C: a statement only where the sentence ends with it.
WEAK_HEADS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?:so|thus|therefore|hence|it's|it is|that's|must be|should be|has to be|i say|i'd say|i would say)\b"
        r",?:?\s?",
        r"\b(?:the|what is the) (?:correct |right |final )?answer\s?(?:\?\s|\s(?=\())",
        r"(?:故|因此|所以|综上(?:所述)?|因而|可知|应该?是|应为|就是|(?<=[,。.])是|^是|而是)[,:]?\s?(?:是|为)?\s?",
    )
]
_GROUP = (
    rf"(?<![A-Za-z0-9_\\^=+\-])(?P<letters>[A-J](?![A-Za-z0-9_'’]){_SHUT}"
    r"(?:\s?(?:,|、|和|与|及|以及|\band\b|, and\b)\s?(?i:option\s)?\(?[A-J](?![A-Za-z0-9_'’])\)?){0,8})"
)
TAILS = [
    re.compile(pattern)
    for pattern in (
        rf"{_GROUP}\s?(?:is|are|would be|must be|seems|remains)\s(?:both\s|clearly\s|the\s(?:only\s|most\s)?)?"
        r"(?:one\s)?(?:correct|right|best|true|answers?|most (?:accurate|appropriate|suitable|likely|reasonable))"
        r"\b(?!\s?\?)",
        rf"\b[Oo]nly\s(?i:option\s|choice\s)?{_GROUP}\s?(?:is|satisf|fits?\b|match|holds?\b|works?\b|meets?\b|remains\b)",
        rf"{_GROUP}\s?(?:选项|项)?\s?(?:才|都|均|也|两项|三项)?(?:是|为)?(?:唯一|最)?"
        r"(?:正确|对(?![比应于称数角照立策象话待面])|答案|符合|最佳|合适|恰当|成立)"
        r"(?!吗|与否|\s?\?|的(?![。.,;!\s]|$|选项|答案|一项|说法|结论|描述))",
    )
]
_IF = r"if|whether|suppose|supposing|assume|assuming|unless"
_IF_ZH = "如果|假如|假设|假定|若|并非|难道"
_NOT_BEFORE = re.compile(
    rf"(?:\b(?:not|never|cannot|avoid|neither|nor|no|{_IF})|n't|n’t)\s(?:\w+\s){{0,2}}?(?:(?:that|the|correct|right|option"
    r"|choice)\s|\()*$|\b(?:wrong|incorrect|false)\s$"
    r"|\b(?:all|every|any)\b[^.,;]{0,20}\b(?:but|except)(?:\sfor)?\s$"
    rf"|(?:不|别|勿|未|没有?|误|排除|错误的?|干扰|{_IF_ZH})(?:能|会|应该?|该|可以?|要|是|再|正确)?(?:说|选项|选择?|是)?$",
    re.IGNORECASE,
)
_NOT_BEFORE_WEAK = re.compile(rf"(?:\b(?:not|{_IF})|n't|n’t)\s(?:that\s)?$|(?:不|{_IF_ZH})$", re.IGNORECASE)
_BOX = re.compile(r"⟦([^⟦⟧\n]{1,200}(?:⟧\s?(?:,|and|和|、)\s?⟦[A-J]){0,8})⟧")
_VERDICT = re.compile(r"\[\[([^\[\]\n]{1,20})\]\]")  # [[B]], as judges are asked to write
_HASH = re.compile(r"####\s?([^\n]{1,200})")
_BOLD = re.compile(r"\*\*\s?\(?([A-J])\)?[.:)]?(?:\s[^*\n]{0,100})?\*\*")
_ONLY = re.compile(
    rf"{_OPEN}(?P<letters>[A-J]\)?(?:(?:\s?(?:[,、;&\s]|\band\b|和|与|及){{1,3}}\s?|(?<=\)))\(?[A-J](?![A-Za-z])\)?){{1,8}}|[A-J]{{2,8}}"
    rf"|[A-Ja-j])(?![A-Za-z0-9_'’^\\(+#=-]){_SHUT}(?P<text>\s?[.:)、。,\-]{{0,2}}\s?(?!\s?[=+<>×^])[^\n]*)"
)
_EXPLAINED = re.compile(r"[.:)、。]|-\s|,?\s?(?:because\b|since\b|因为|由于)")
_OPTION = re.compile(r"(?:^|\n)\s?\(?[A-J][.:)、]\s?[^\n]*\S")
_TAKEN_BACK = re.compile(
    r"(?:^|[.!?\n。!,]\s?)(?:(?:oh|hmm|but|no|ah)[,.]?\s)?(?:wait|hold on|scratch that|on second thought)\b"
    r"|(?:^|[。!,?\n]\s?)(?:哦|不)?,?(?:不对|等等|等一下|更正)"
    r"|(?:^|[.!\n]\s?)(?:no,? )?(?:that's|that is|this is|i was) (?:wrong|incorrect|not right)",
    re.IGNORECASE,
)
_SIMPLIFIED = str.maketrans("選擇項確應該對為錯與無綜排據", "选择项确应该对为错与无综排据")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox|mathit)\s?\{([^{}\n]{0,300})\}")
_LATEX_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{([^{}\n]{0,300})\}|\\boxed\s([A-J])\b")
_BOLD_MARKS = re.compile(r"(?<![A-Za-z0-9)])\*+|\*+(?![A-Za-z0-9(])|`+|\$+|\\[()\[\]]|__")


class Statement(NamedTuple):
    """Letters that a text states.

    Args:
        at: Where the letters begin.
        end: Where they end.
        letters: The letters; None for "A or B", which is not an answer.
    """

    at: int
    end: int
    letters: frozenset[str] | None


def stated_letters(text: Any) -> frozenset[str] | None:
    """Returns the letters of the last clear statement of an answer.

    Args:
        text: A model's whole answer; its thought does not count.

    Returns:
        One letter or several; None without a statement, when it is "A or B", or when it is taken back.
    """
    answer = behind_thought(text)
    if answer is None:
        return None
    answer = answer[-TAIL:]
    inside = tagged(answer)
    if inside:
        plain = _plain(inside)
        letters = only_letters(plain) or _last_statement(plain)
        if letters:
            return letters
    return _last_statement(_plain(answer)) or _bold_letter(answer)


def only_letters(text: str, may_explain: bool = True) -> frozenset[str] | None:
    """Reads a text that is nothing but letters: "B", "(B)", "A, C", "AC", "A和C", "选项B", "Option B".

    Args:
        text: One line.
        may_explain: The option's text may follow the letter: "B. Paris".
    """
    text = _plain(text).strip()
    found = _ONLY.fullmatch(text)
    if not found:
        return None
    rest = found["text"].strip()
    if rest not in ("", ".", "。") and not (may_explain and (text[0] in "([" or _EXPLAINED.match(rest))):
        return None
    letters = re.findall("[A-J]", found["letters"].upper().replace("AND", ""))
    return frozenset(letters) if len(set(letters)) == len(letters) else None


def _plain(text: str) -> str:
    """Writes a text so that the patterns above can read it."""
    text = unicodedata.normalize("NFKC", text).translate(_SIMPLIFIED)  # Ｂ （B） ： become B (B) :
    for _ in range(2):
        text = _LATEX_TEXT.sub(r"\1", text)
    text = _LATEX_BOX.sub(lambda found: f"⟦{found[1] or found[2]}⟧", text)
    text = _BOLD_MARKS.sub("", text)
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))


def _last_statement(text: str) -> frozenset[str] | None:
    statements = list(_statements(text))
    if not statements:
        return None
    last = max(statements)
    rest = text[last.end :]
    return None if _TAKEN_BACK.search(rest) else last.letters


def _statements(text: str) -> Iterator[Statement]:
    for heads, strict in ((HEADS, False), (WEAK_HEADS, True)):
        for head in heads:
            for found in head.finditer(text):
                if not _negated(text, found.start(), strict):
                    yield from _letters_behind(text, found.end(), strict)
    for tail in TAILS:
        for found in tail.finditer(text):
            if not _negated(text, found.start()):
                yield Statement(found.start(), found.end(), frozenset(re.findall("[A-J]", found["letters"])))
    for mark in (_BOX, _HASH, _VERDICT):
        for found in mark.finditer(text):
            letters = only_letters(found[1].replace("⟦", "").replace("⟧", ""))
            if letters:
                yield Statement(found.start(1), found.end(), letters)
    yield from _lone_lines(text)


def _letters_behind(text: str, at: int, strict: bool) -> Iterator[Statement]:
    """Yields the letters that begin at a place, joined by commas and "and"."""
    found = _LETTERS.match(text, at)
    if not found or (found["letters"].islower() and not _ENDS.match(text, found.end())):
        return
    letters, end, is_either = list(found["letters"].upper()), found.end(), False
    start = found.start("letters")
    while True:
        separator = _SEPARATOR.match(text, end)
        further = separator and _LETTERS.match(text, separator.end())
        if not further or further["letters"].islower():
            break
        if not strict and _BEGINS_A_CLAUSE.match(text, further.end()):
            break
        letters += further["letters"]
        is_either |= separator["sign"] in ("or", "或", "/") or separator["or"] in ("or", "或")
        end = further.end()
    if _NOT_BEHIND.match(text, end) or (strict and not _ENDS.match(text, end)) or len(set(letters)) < len(letters):
        return
    if letters[0] == "I" and re.match(r"\s[a-z]", text[end : end + 2]):  # "I as a teacher"
        return
    yield Statement(start, end, None if is_either else frozenset(letters))


def _negated(text: str, at: int, weak: bool = False) -> bool:
    return bool((_NOT_BEFORE_WEAK if weak else _NOT_BEFORE).search(text[max(0, at - 40) : at]))


def _lone_lines(text: str) -> Iterator[Statement]:
    """Yields the last line, or else the first, where it is nothing but letters."""
    last = text.rpartition("\n")[2]
    first = text.partition("\n")[0]
    alone = len(_OPTION.findall(text)) < 2  # else it is the list of options
    letters = only_letters(last, may_explain=alone)
    if letters:
        yield Statement(len(text) - len(last), len(text), letters)
    letters = only_letters(first, may_explain=alone)
    if letters:
        yield Statement(0, len(first), letters)


def _bold_letter(text: str) -> frozenset[str] | None:
    """Returns the one letter that is in bold, when no sentence states one."""
    letters = frozenset(_BOLD.findall(text))
    return letters if len(letters) == 1 else None
