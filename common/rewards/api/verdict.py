"""The verdict in a judge's words: its own, whole, and only one of each criterion.

The answer that is judged comes from a policy which is paid for a high score, and a judge quotes what it judges. So a
score counts only where the judge gives its verdict: as a JSON object with the criteria as keys, as a line that begins
with the criterion's name, or where the pattern of the settings matches outside of quotation marks. Two verdicts that
differ are none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import regex

from common.answers.thought import behind_thought
from common.rewards.api.number import plain, read_number
from common.rewards.api.settings import Criterion

SHOWN = 160  # characters of a reply in an error
LONGEST = 20_000  # characters of a judge's words
SECONDS = 0.5  # for a pattern of the settings
OBJECTS = 50  # opening braces in a judge's words that are tried
ALIASES = ("score", "rating", "评分", "得分", "分数")  # of a criterion that is the only one
_MARKS = re.compile(r"\*\*|__|`(?!``)")  # bold and code of Markdown
_QUOTED = re.compile(
    r'"[^"\n]{0,2000}"|“[^“”\n]{0,2000}”|«[^«»\n]{0,2000}»|「[^「」\n]{0,2000}」|『[^『』\n]{0,2000}』|‘[^‘’\n]{0,2000}’'
)


class BadReplyError(Exception):
    """A reply that holds no score: not JSON, another shape, cut, no number, two, a number out of range.

    Args:
        message: What is wrong.
        kind: ``bad_reply``, or ``refused`` when asking again cannot help.
    """

    def __init__(self, message: str, kind: str = "bad_reply"):
        super().__init__(message)
        self.kind = kind


def read_verdict(
    words: str, criteria: tuple[Criterion, ...], answer: str = "", whole: bool = False
) -> dict[str, float]:
    """Read the scores out of a judge's words, in the units of each criterion's range.

    Args:
        words: All that the judge said, a thought included.
        criteria: What is scored.
        answer: What was judged: a verdict that is in it word for word, in a reply that says more than its verdict,
            may be a quotation and does not count.
        whole: Only a JSON object and nothing next to it is a verdict.

    Raises:
        BadReplyError: If one is missing, comes twice, is not a whole number, or is out of its range.
    """
    said = behind_thought(words)
    if said is None:
        raise BadReplyError(f"the judge's thought was cut off, so it has no verdict; raise max_tokens: {short(words)}")
    said = said.strip()
    if len(said) > LONGEST:
        raise BadReplyError(f"the judge's words are too long ({len(said)} characters): {short(said)}")
    if not any(criterion.pattern for criterion in criteria):
        found = _json_verdict(said, criteria, answer)
        if found is not None:
            return found
        if whole:
            raise BadReplyError(f"structured=on, and the judge gave no JSON object: {short(said)}")
        if len(criteria) == 1 and _is_number(plain(said.strip("*_`"))):
            return {criteria[0].name: scale(said, criteria[0])}
    return {criterion.name: _one(said, criterion, answer, len(criteria) == 1) for criterion in criteria}


def scale(value: Any, criterion: Criterion) -> float:
    """A number, or a text that is one, as a share of the criterion's range.

    Raises:
        BadReplyError: If it is none, or out of the range.
    """
    number = value
    if isinstance(value, str):
        text = plain(value.strip().strip("*_`"))
        number = read_number(text, 0, criterion.high) if _is_number(text) else None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise BadReplyError(f"{criterion.name}: {short(str(value))!r} is not a number")
    try:
        number = float(number)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadReplyError(f"{criterion.name}: {short(str(value))!r} is not a number")
    if not criterion.low <= number <= criterion.high:
        raise BadReplyError(f"{criterion.name}: {number:g} is not between {criterion.low:g} and {criterion.high:g}")
    return (number - criterion.low) / (criterion.high - criterion.low)


def _is_number(text: str) -> bool:
    """Whether nothing but a number, its unit and its top are in a text."""
    return re.fullmatch(r"[-+\d.,eE]{1,80}\s?(?:points?|分|%)?\s?(?:(?:/|out of)\s?[\d.]{1,40})?", text) is not None


# ---- a JSON object ----------------------------------------------------------------------------------------------


def _json_verdict(said: str, criteria: tuple[Criterion, ...], answer: str) -> dict[str, float] | None:
    """The scores of the one object with all criteria as keys; None where the judge gave none.

    An object among other words may be quoted: it must not be in the answer, and no line may say otherwise.
    """
    names = {criterion.name.lower() for criterion in criteria}
    whole = _load(re.sub(r"^```(?:json)?\s{0,9}|\s{0,9}```$", "", said))
    found = []
    for value in _nested(whole) if whole is not None else _objects(said):
        lower = {str(key).strip().lower(): entry for key, entry in value.items()}
        if names <= lower.keys():
            found.append({criterion.name: scale(lower[criterion.name.lower()], criterion) for criterion in criteria})
    if not found:
        return None
    if whole is None:
        for criterion in criteria:
            score = found[0][criterion.name]
            if score in _claims(answer, criterion, len(criteria) == 1):
                raise BadReplyError(f"{criterion.name}: this verdict is in the answer too: {short(said)}")
            text = plain(said)
            places = _places(text, _line_pattern(criterion, len(criteria) == 1), criterion)
            found += [{**found[0], criterion.name: _scored(text, *place, criterion)} for place in places]
    if any(one != found[0] for one in found):
        raise BadReplyError(f"{len(found)} verdicts that differ: {short(said)}")
    return found[0]


def _nested(value: dict[str, Any], depth: int = 3) -> Iterator[dict[str, Any]]:
    """An object and those in it (``{"scores": {...}}``)."""
    yield value
    for inner in value.values():
        if isinstance(inner, dict) and depth:
            yield from _nested(inner, depth - 1)


def _objects(said: str) -> Iterator[dict[str, Any]]:
    """The objects in a judge's words, but those right behind a quotation mark."""
    decoder, at = json.JSONDecoder(object_pairs_hook=_no_doubles), 0
    for _ in range(OBJECTS):
        at = said.find("{", at)
        if at < 0:
            return
        try:
            value, end = decoder.raw_decode(said, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        if said[at - 1 : at] not in tuple("\"'“‘「『«"):
            yield from _nested(value)
        at = end
    raise BadReplyError(f"the judge's words hold too many braces: {short(said)}")


def _load(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text, object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a key come twice and the last one win; a verdict must not."""
    lower = [key.strip().lower() for key, _ in pairs]
    if len(set(lower)) < len(lower):
        raise ValueError("a key comes twice")
    return dict(pairs)


# ---- a line, or a pattern of the settings -----------------------------------------------------------------------


def _one(said: str, criterion: Criterion, answer: str, alone: bool) -> float:
    """The one verdict on a criterion, scaled."""
    text = plain(said)  # of the same length as what was said
    pattern = criterion.pattern or _line_pattern(criterion, alone)
    places = _places(said, pattern, criterion) or _places(text, pattern, criterion)
    if not places:
        text = _MARKS.sub("", text)
        places = _places(text, pattern, criterion)
    if not places:
        expected = repr(criterion.pattern) if criterion.pattern else f"line '{criterion.name}: <number>'"
        raise BadReplyError(f"{criterion.name}: no {expected} in the judge's words: {short(said)}")
    scores = {_scored(text, start, end, criterion) for start, end in places}
    if len(scores) > 1:
        raise BadReplyError(f"{criterion.name}: {len(places)} verdicts that differ: {short(said)}")
    score = scores.pop()
    if _says_more(text) and score in _claims(answer, criterion, alone):
        raise BadReplyError(
            f"{criterion.name}: this verdict is in the answer too, it may be a quotation: {short(said)}"
        )
    return score


def _places(text: str, pattern: str, criterion: Criterion) -> list[tuple[int, int]]:
    """Where scores are: start and end of the first group."""
    try:
        found = [match for match in regex.compile(pattern).finditer(text, timeout=SECONDS) if match[1] is not None]
    except TimeoutError:
        raise BadReplyError(f"{criterion.name}: the pattern {pattern!r} took too long on {short(text)}") from None
    quoted = [match.span() for match in _QUOTED.finditer(text)] if criterion.pattern else []
    places = []
    for match in found:
        start, end = match.span()
        in_a_word = re.fullmatch("[A-Za-z0-9_]{2}", text[max(0, start - 1) : start + 1]) is not None
        if not in_a_word and not any(first < start < last for first, last in quoted):
            places.append(match.span(1))
    return places


def _line_pattern(criterion: Criterion, alone: bool, anywhere: bool = False) -> str:
    """``Correctness: 8`` on a separate line, with the marks of lists, of Markdown and of JSON around the name.

    Args:
        criterion: The one that is named.
        alone: It is the only one, so that ``Score: 8`` and ``评分：8`` mean it too.
        anywhere: Within a line as well.
    """
    name = regex.escape(criterion.name).replace("_", "[ _-]")
    words = f"(?:{'|'.join((name, *ALIASES))})" if alone else name
    begins = "" if anywhere else r"^[ \t]{0,8}(?:[-*+•#]{1,4} |\d{1,2}[.)] )?[*_`]{0,3}"
    return rf'(?im){begins}(?:"{words}"|{words})(?: score)?[*_`]{{0,3}} ?[:=][ *_`"\[(<]{{0,6}}([^\s*_`"\[(<])'


def _scored(text: str, start: int, end: int, criterion: Criterion) -> float:
    number = read_number(text, start, criterion.high)
    if number is None:
        line = text[start : max(end, start + 24)].split("\n", 1)[0].strip()
        raise BadReplyError(f"{criterion.name}: {line!r} is not a number that can be read whole")
    return scale(number, criterion)


def _says_more(text: str) -> bool:
    """Whether a reply holds other lines than verdicts, so that one of them may be quoted."""
    verdict = re.compile(r"^\W{0,12}[\w -]{1,40}[*_`\"]{0,3} ?[:=]\W{0,6}[-+\d]")
    return any(not verdict.match(line) for line in text.split("\n") if line.strip())


def _claims(answer: str, criterion: Criterion, alone: bool) -> set[float]:
    """The scores that an answer gives itself, in any form that is read as a verdict and anywhere in it."""
    found = set()
    for text in (plain(answer), _MARKS.sub("", plain(answer))):
        patterns = [_line_pattern(criterion, alone, anywhere=True)]
        if criterion.pattern:
            patterns.append(criterion.pattern)
        for pattern in patterns:
            for start, end in _places(text, pattern, replace(criterion, pattern="")):
                try:
                    found.add(_scored(text, start, end, criterion))
                except BadReplyError:
                    continue
    return found


def short(text: str) -> str:
    """A text in one line, cut, without control characters."""
    text = "".join(one if one.isprintable() else " " for one in text[: 4 * SHOWN])
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
