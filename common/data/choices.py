"""Questions of multiple choice: the options are in the question, and the right one is a letter."""

from __future__ import annotations

import re
from typing import Any

from common.data.messages import RowError, structured, text_of
from common.data.names import LETTERS

_MARK = re.compile(r"(?:(?<=\s)|^)[(（]?([A-J])[)）.．、:：]")
_LETTERED = re.compile(r"\s*[(（]?([A-Ja-j])\s*[)）.．、:：]\s*(.+)", re.DOTALL)


def options_of(value: Any, field: str = "choices") -> dict[str, str]:
    """Options by their letters.

    Args:
        value: A list of texts, with or without letters in front; an object of them by letter; or ARC's
            ``{"label": [...], "text": [...]}``; or JSON of one.
        field: Column that they come from.

    Raises:
        RowError: If it is something else.
    """
    value = structured(value)
    if type(value) is str:
        value = _divided(value)
    if type(value) is dict and type(value.get("text")) is list and type(value.get("label")) is list:
        value = dict(zip(map(str, value["label"]), value["text"], strict=False))
    if type(value) is dict:
        pairs = [
            (str(key).strip(), text_of(text, f"{field}: {key}")) for key, text in value.items() if text is not None
        ]
        if all(key.upper() in LETTERS and len(key) == 1 for key, _ in pairs):
            return {key.upper(): text for key, text in pairs}
        value = [text for _, text in pairs]
    if type(value) is list and value and all(type(item) is dict for item in value):
        value = [item.get("text", item.get("content", item.get("value"))) for item in value]
    if type(value) is not list or not 2 <= len(value) <= len(LETTERS):
        raise RowError(f"{field}: expected 2 to {len(LETTERS)} options, as a list or by their letters")
    texts = [text_of(item, f"{field}: option {number}") for number, item in enumerate(value, 1)]
    marked = [_LETTERED.fullmatch(text) for text in texts]
    if all(marked) and [mark[1].upper() for mark in marked] == list(LETTERS[: len(texts)]):
        texts = [mark[2].strip() for mark in marked]
    return dict(zip(LETTERS, texts, strict=False))


def _divided(text: str) -> list[str] | str:
    """The options of one text, ``A) 2 B) 3``, with their letters; the text itself where it has no such letters."""
    marks = list(_MARK.finditer(text))
    letters = [mark[1].upper() for mark in marks]
    if len(marks) < 2 or letters != list(LETTERS[: len(marks)]) or text[: marks[0].start()].strip():
        return text
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [text[mark.start() : end].strip() for mark, end in zip(marks, ends, strict=True)]


def with_options(question: str, options: dict[str, str]) -> str:
    """A question with its options below it, unless they are in it already."""
    if all(text in question for text in options.values()):
        return question
    return question + "".join(f"\n{letter}. {text}" for letter, text in options.items())


def right_letter(value: Any, options: dict[str, str], field: str, counts_from: int = 0) -> str:
    """The letter (or letters, ``A, C``) of the right option.

    Args:
        value: Its letter, its text, or its position.
        options: By letter.
        field: Column that it comes from.
        counts_from: What positions begin with.

    Raises:
        RowError: If it is none of the options, or both the text of one and the position of another.
    """
    letters = list(options)
    if type(value) is list and value:
        return ", ".join(right_letter(item, options, field, counts_from) for item in value)
    text = text_of(value, field).strip()
    if text.upper() in letters:
        return text.upper()
    by_text = [letter for letter, option in options.items() if option.strip() == text]
    at = int(text) - counts_from if re.fullmatch(r"\d+", text) else -1
    by_place = letters[at] if 0 <= at < len(letters) else None
    if by_text and by_place and by_text != [by_place]:
        raise RowError(
            f"{field}: {text} is the text of option {by_text[0]} and the position of {by_place}; give letters"
        )
    if found := by_text[0] if by_text else by_place:
        return found
    mark = _LETTERED.fullmatch(text)
    if mark and mark[1].upper() in letters:
        return mark[1].upper()
    several = [one for one in re.split(r"[\s,，、;；]*", text.upper()) if one]
    if several and all(one in letters for one in several) and len(set(several)) == len(several):
        return ", ".join(several)
    raise RowError(f"{field}: {text[:60]!r} is none of the options {', '.join(letters)}")
