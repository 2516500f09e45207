r"""What an answer marks as final, opened from the outside in.

>>> read_answer("<think>6 * 7</think><answer>It is \\boxed{42}</answer>").layers
('<answer>It is \\boxed{42}</answer>', 'It is \\boxed{42}', '42')
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from common.answers.thought import behind_thought

MARK = "####"
LONGEST = 2000  # characters of a box, and of the end in which "the answer is" and bold text are looked for
DEEPEST = 8  # marks inside marks

_TAG = re.compile(r"<(answer|final_answer|solution)>(.*)</\1>", re.IGNORECASE | re.DOTALL)
_TAG_END = re.compile(r"</(answer|final_answer|solution)>", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|<\|begin_of_box\|>")
_BARE_BOX = re.compile(r"\\boxed\s*([^\s{}$\\,.;]+)")
_BETWEEN_BOXES = re.compile(r"[\s$,;、，；]*(?:and|or|和|或|与|及)?[\s$,、，]*(?:[A-Za-z]\w{0,3}\s?=\s?)?[\s$]*")
_HEADING = re.compile(r"(?:the )?(?:final |correct )?answers?\s*:?|(?:最终|正确)?答案\s*[:\uff1a]?", re.IGNORECASE)
# "The final answer is X", "**Answer:** X", "答案是X", "故选X": what follows, in groups 1 (same line) or 2 (next line).
_SAID = re.compile(
    r"(?:\banswers?\b[*_]*(?:\s+(?:to|of|for)\s[^.:\n]{1,80}?)?\s*(?:is|are|was|would be|must be|should be|:|\uff1a|=)"
    r"|答案[*_】\]]*\s*(?:应该|应当|应|就)?\s*(?:是|为|选|:|\uff1a)|【答案】|故选|应选)"
    r"[*_]*\s*[:\uff1a]?[ \t]*(?:([^\n]*\S)|\n\s*([^\n]*\S))"
    r"|^[#* \t]{0,20}(?:final |correct )?(?:answer|答案)[* \t]{0,20}\n\s*([^\n]*\S)",
    re.IGNORECASE | re.MULTILINE,
)
# Where the sentence ends, but not behind "Dr." or "U.S."; or where its reason begins.
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])(?<!\b(?:Mr|Ms|Dr|St|vs|No))(?<!\bMrs)[.!?](?=\s+[A-Z\"'(*]|\s*$)|[。;\uff01\uff1f\uff1b]"
    r"|(?:[,\uff0c]|(?<!\s))\s*(?:\b(?:because|since)\b|因为|由于)"  # starts at the first space: n spaces, n steps
)
_BOLD_END = re.compile(r"\*\*([^*\n]+)\*\*[\s.。!\uff01]*$")
_NEGATED = re.compile(r"\b(?:not|never|no|isn't|wasn't)\b|n't\b|不|没|非", re.IGNORECASE)
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_DRESSES = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"\*\*([^*]+)\*\*",
        r"\*([^*]+)\*",
        r"__([^_]+)__",
        r"`+([^`]+)`+",
        r"\$\$([^$]+)\$\$",
        r"\$((?:[^$\\]|\\.)+)\$",
        r"\\\(((?:(?!\\\)).)+)\\\)",
        r"\\\[((?:(?!\\\]).)+)\\\]",
        r'"([^"]+)"',
        r"'([^']+)'",
        r"“([^“”]+)”",
        r"「([^「」]+)」",
        _LATEX_TEXT.pattern,
    )
]


@dataclass(frozen=True)
class Reading:
    """What an answer says.

    Args:
        layers: The answer behind its thought, then what is left after each mark was opened; () when the thought is
            not finished, or for anything that is not a string. The innermost is the final answer, and each of them may
            be compared with the truth: the outer ones equal it only when the answer is the truth word for word.
        marks: The mark between a layer and the next: `tag`, `hash` (####), `box`, `said`, `bold` or `dress`.
    """

    layers: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The final answer; "" when there is none."""
        return self.layers[-1] if self.layers else ""

    @property
    def is_boxed(self) -> bool:
        r"""Whether the final answer is in a `\boxed{}`."""
        return "box" in self.marks


def read_answer(text: Any) -> Reading:
    """Cuts the thought off an answer and opens its marks, from the outside in."""
    answer = behind_thought(text)
    if answer is None:
        return Reading()
    layers, marks = [answer.strip()], []
    while len(marks) < DEEPEST:
        mark, inside = _opened(layers[-1], "box" in marks)
        if not mark or inside == layers[-1]:
            break
        marks.append(mark)
        layers.append(inside)
    return Reading(tuple(layers), tuple(marks))


def final_answer(text: Any) -> str:
    """Returns the innermost of what an answer marks as final, else all that is behind the thought; "" for none."""
    return read_answer(text).text


def marked_answer(text: str) -> str | None:
    r"""Returns what is in the explicit marks `<answer>`, `####` and `\boxed{}`; None where there is none."""
    reading = read_answer(text)
    explicit = [layer for mark, layer in zip(reading.marks, reading.layers[1:], strict=True) if mark in _EXPLICIT]
    return explicit[-1] if explicit else None


_EXPLICIT = ("tag", "hash", "box")


def _opened(text: str, in_box: bool) -> tuple[str, str]:
    """Returns the outermost mark of a text and what it holds; ("", "") without one."""
    dressed = _undressed(text)
    if in_box or dressed is not None:
        return ("dress", dressed) if dressed is not None else ("", "")
    for mark, find in (("tag", tagged), ("hash", _hashed), ("box", last_box), ("said", _said), ("bold", _bold_end)):
        inside = find(text)
        if inside is not None:
            return mark, inside
    return "", ""


def tagged(text: str) -> str | None:
    """Returns what the last `<answer>...</answer>` holds; None without one that is closed."""
    ends = list(_TAG_END.finditer(text))
    for end in reversed(ends[-3:]):
        opening = f"<{end[1].lower()}>"
        start = text.lower().rfind(opening, 0, end.start())
        if start >= 0:
            return text[start + len(opening) : end.start()].strip()
    return None


def hash_line(text: str) -> str | None:
    """Returns what follows the last `####`, to the end of its line and at most 200 characters; None without."""
    start = text.rfind(MARK)
    if start < 0:
        return None
    start += len(MARK)
    end = text.find("\n", start, start + 200)
    return text[start : end if end >= 0 else start + 200].strip()


def _hashed(text: str) -> str | None:
    """A `####` line; not a heading of Markdown, which has text below it that holds the answer."""
    line = hash_line(text)
    if not line or _HEADING.fullmatch(line):
        return None
    start = text.rfind(MARK)
    below = text[start:].partition("\n")[2].strip()
    if not below:
        return line
    if last_box(line) is not None:
        return line
    if last_box(text[:start]) is not None or last_box(below) is not None or _said(below) is not None:
        return None
    return line


def last_box(text: str) -> str | None:
    r"""Returns what the last `\boxed{...}` (or `\fbox`) that is closed and not empty holds, braces matched.

    Boxes with nothing but "and" or a comma between them are one answer of several parts: "2, 3".
    """
    if "box" not in text:
        return None
    spans: list[tuple[int, int, str]] = []
    for found in list(_BOX.finditer(text))[-16:]:
        end = _closing(text, found)
        inside = text[found.end() : end].strip() if end is not None else ""
        if inside and not (spans and found.start() < spans[-1][1]):
            spans.append((found.start(), end + 1, inside))
    if not spans:
        bare = _BARE_BOX.findall(text)
        return bare[-1] if bare else None
    parts = [spans[-1]]
    for span in reversed(spans[:-1]):
        if not _BETWEEN_BOXES.fullmatch(text, span[1], parts[0][0]):
            break
        parts.insert(0, span)
    return ", ".join(dict.fromkeys(inside for _, _, inside in parts))


def _closing(text: str, found: re.Match[str]) -> int | None:
    """Returns where a box ends; None when it is not closed within `LONGEST` characters."""
    if found[0].startswith("<"):
        end = text.find("<|end_of_box|>", found.end(), found.end() + LONGEST)
        return end if end >= 0 else None
    depth, escaped = 1, False
    for at in range(found.end(), min(len(text), found.end() + LONGEST + 1)):
        character = text[at]
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if not depth:
                return at
    return None


def _said(text: str) -> str | None:
    sentences = _SAID.findall(text[-LONGEST:])
    if not sentences:
        return None
    said = "".join(sentences[-1])  # one of the groups is not empty
    again = _SAID.search(said)  # "The answer to ... is: the answer is X"
    if again:
        said = "".join(filter(None, again.groups()))
    end = _SENTENCE_END.search(said)
    said = (said[: end.start()] if end else said).strip().rstrip(".。")
    return said.strip() or None


def _bold_end(text: str) -> str | None:
    line = text[-LONGEST:].rstrip().rpartition("\n")[2]
    found = _BOLD_END.search(line)
    if not found or line.count("**") != 2 or _NEGATED.search(line[: found.start()]):
        return None
    return found[1].strip()


def _undressed(text: str) -> str | None:
    r"""Returns what is left without marks around the whole of a text: `**x**`, `$x$`, `\text{x}`, quotes."""
    for dress in _DRESSES:
        found = dress.fullmatch(text)
        if found and found[1].strip():
            return found[1].strip()
    return None
