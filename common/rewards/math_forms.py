r"""Whether two answers are the same: words, numbers, lists, tuples and names here, formulas by math-verify.

>>> same("1,2", r"\{2, 1\}"), same("1,2", "1.2"), same(r"\$36", "36"), same("x^2", "y")
(True, False, True, None)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from common.answers.number import read_number
from common.rewards.math_clean import DOLLAR, cleaned, closing, split, without_text

LONGEST_LIST = 64  # items of a list that are compared with those of another, each with each
Decide = Callable[[str, str], "bool | None"]

_AND = re.compile(r"\s*(?:\\text\s*\{\s*(?:and|or|和|或|与)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|[和或与])\s*")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_FRACTION = r"\\frac\s*(?:\{(-?\d+)\}|(\d))\s*(?:\{(-?\d+)\}|(\d))"
_PLAIN = re.compile(rf"([-+]?)({_DIGITS})")
_POWER = re.compile(rf"([-+]?)(?:({_DIGITS})(?:\\times|\\cdot|\*|x))?10\^(?:\{{([-+]?\d+)\}}|([-+]?\d+))")
_EXPONENT = re.compile(rf"([-+]?)({_DIGITS})[eE]([-+]?\d{{1,4}})")
_FRACTIONS = re.compile(rf"([-+]?)(\d+)?\s?{_FRACTION}")
_SLASH = re.compile(r"([-+]?)(?:(\d+) )?(\d+)/(\d+)")
_BASE = re.compile(r"([0-9A-Z]+)_(?:\{?\(?(?:\\text\{)?([a-z]+|\d+)\}?\)?\}?)")
_NAME = re.compile(
    r"(?:\\(?:text|mathrm|angle|operatorname)\s*)?\{?\\?[A-Za-z][A-Za-z ]{0,20}\}?'?"
    r"(?:_(?:\{[^{}]*\}|\w))?(?:\([A-Za-z, ]+\))?"
)
_UNIT_TEXT = re.compile(
    r"(?:\\(?:text|mathrm|mbox|rm)\s*\{([^{}]*)\}|([一-鿿/]+[一-鿿/²³]*)|(°C?))(?:\^\{?(\d)\}?)?[.]?$"
)
_UNIT_WORDS = re.compile(r"(?<=[\d})]) ?((?:[A-Za-z]{3,}|cm|mm|km|kg|mg|ml|mL)(?:[ /][A-Za-z]+)*)(?:\^\{?(\d)\}?)?$")
_WORD = re.compile(r"[A-Z]{2,}|[a-z]{4,}|[A-Z][a-z]{2,}")
_PROSE = re.compile(r"(?:[A-Za-z]{2,}[ ,.]+){2,}[A-Za-z]{2,}")
_SETS = re.compile(r"\\(?:cup|cap|setminus)(?![A-Za-z])")
_UNITS = {
    "cm": "cm 厘米 公分 centimeter centimeters", "m": "m 米 meter meters", "km": "km 千米 公里 kilometer kilometers",
    "mm": "mm 毫米 millimeter millimeters", "kg": "kg 千克 公斤 kilogram kilograms", "g": "g 克 gram grams",
    "s": "s 秒 second seconds sec", "min": "min 分钟 minute minutes", "h": "h 小时 hour hours",
    "yuan": "元 yuan rmb", "$": "dollar dollars usd 美元", "cent": "cent cents", "°": "° 度 degree degrees",
    "L": "l 升 liter liters", "day": "天 day days", "inch": "inch inches", "foot": "foot feet ft",
}  # fmt: skip
_UNIT = {word: unit for unit, words in _UNITS.items() for word in words.split()}
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}


def same(truth: str, answer: str, decide: Decide | None = None) -> bool | None:
    """Compares two answers.

    Args:
        truth: The right answer, as it is written.
        answer: The model's.
        decide: Compares two formulas; None when there is none here.

    Returns:
        True or False; None when only a comparison of formulas can tell, and there is none.
    """
    if _key(truth) == _key(answer):
        return True
    return _same(cleaned(truth), cleaned(answer), decide)


def _key(text: str) -> str:
    text = re.sub(r",\s+", ",", re.sub(r",\s*\\!\s*", ",", text))
    return without_text(cleaned(text)).replace(", ", ",").replace(DOLLAR, "").casefold()


def _same(truth: str, answer: str, decide: Decide | None) -> bool | None:
    if _key(truth) == _key(answer):
        return True
    if not truth or not answer or is_prose(truth):
        return False  # a sentence is compared word for word
    if _number(truth) is None or _number(answer) is None:
        items, others = _items(truth), _items(answer)
        if min(len(items), len(others)) == 1 and _SETS.search(truth + answer):
            return decide(truth, answer) if decide else None
        if len(items) > 1 or len(others) > 1:
            return _same_lists(items, others, answer, truth, decide)
    return _same_one(truth, answer, decide)


def is_prose(text: str) -> bool:
    """Tells whether a text says a sentence, in which math-verify would find names."""
    return bool(_PROSE.search(without_text(text)))


def _items(text: str) -> list[str]:
    """Returns the items of a list without order: "1, 2", {1, 2}, 1 and 2, 1 plus or minus 2."""
    if text.startswith("\\{") and closing(text, 1) == len(text) - 1:
        return list(dict.fromkeys(_items(text[2:-2]))) or [""]
    if _number(text) is not None:
        return [text]
    parts = [part for piece in split(text) for part in _AND.split(piece) if part]
    items: list[str] = []
    for part in parts:
        if "\\pm" in part:
            items += [re.sub(r"\\pm\s*", "+", part).lstrip("+"), re.sub(r"\\pm\s*", "-", part)]
        elif len(parts) > 1 and part.startswith("\\{"):
            items.append(part)
        else:
            items += [part]
    return items


def _same_lists(items: list[str], others: list[str], answer: str, truth: str, decide: Decide | None) -> bool | None:
    for whole, rest in ((truth, others), (answer, items)):  # a tuple and a list: in order
        inner = _tuple(whole)
        if len(rest) > 1 and inner is not None and whole[0] == "(":
            return _all(decide, zip(inner[1], rest, strict=True)) if len(inner[1]) == len(rest) else False
    if len(items) != len(others) or len(items) > LONGEST_LIST:
        return False
    names, other_names = [_named(one)[0] for one in items], [_named(one)[0] for one in others]
    if len(set(filter(None, names))) > 1 and not any(other_names):
        return _all(decide, zip(items, others, strict=True))
    left, unsure = list(others), False
    for item in items:
        results = {other: _same(item, other, decide) for other in dict.fromkeys(left)}
        match = next((other for other, result in results.items() if result), None)
        if match is not None:
            left.remove(match)
        elif None in results.values():
            unsure = True
        else:
            return False
    return None if unsure else True


def _all(decide: Decide | None, pairs: object) -> bool | None:
    results = [_same(one, other, decide) for one, other in pairs]  # type: ignore[attr-defined]
    return False if False in results else None if None in results else True


def _tuple(text: str) -> tuple[str, list[str]] | None:
    """Returns the brackets and the items of a tuple or interval; None for anything else."""
    text = text.replace("\\langle", "(").replace("\\rangle", ")")
    if text[:1] not in ("(", "[") or text[-1:] not in (")", "]") or closing(text, 0) != len(text) - 1:
        return None
    return text[0] + text[-1], split(text[1:-1])


def _named(text: str) -> tuple[str, str]:
    r"""Divides `x = 5` and `x \in A` into name and value; the name is "" without one."""
    name, sign, value = text.partition("=")
    if sign and value and not re.search(r"[<>]|\\[lg]eq|\\neq", text) and _NAME.fullmatch(name.strip()):
        return re.sub(r"\s", "", name), value.rpartition("=")[2].strip()
    found = re.fullmatch(r"([A-Za-z])\s*\\in\s*(.+)", text)
    return (found[1], found[2]) if found else ("", text)


def _same_one(truth: str, answer: str, decide: Decide | None) -> bool | None:
    (name, truth), (other, answer) = _named(truth), _named(answer)
    if name and other and name != other:
        return False
    if name or other:
        return _same(truth, answer, decide)
    tuples = _tuple(truth), _tuple(answer)
    if tuples[0] and tuples[1]:
        (brackets, items), (others_brackets, others) = tuples
        if len(items) != len(others) or (len(items) == 2 and brackets != others_brackets):
            return False
        return _all(decide, zip(items, others, strict=True))
    for inner, other_text, first in ((tuples[0], answer, True), (tuples[1], truth, False)):
        if inner and inner[0] == "()" and len(inner[1]) == 1:
            return _same(inner[1][0], other_text, decide) if first else _same(other_text, inner[1][0], decide)
    number, other_number = _number(truth), _number(answer)
    if number and other_number:
        return _same_numbers(number, other_number)
    based = _based(truth), _based(answer)
    if based[0] or based[1]:
        return _same_bases(truth, answer, *based)
    if _is_word(truth) or _is_word(answer):
        return False
    if truth.count("'") != answer.count("'"):
        return False  # math-verify takes f' for f
    bare, bare_answer = _without_unit(truth), _without_unit(answer)
    if bare[1] and bare_answer[1] and bare[1] in _UNITS and bare_answer[1] in _UNITS and bare[1] != bare_answer[1]:
        return False
    if (bare[0], bare_answer[0]) != (truth, answer) and bare[0] and bare_answer[0]:
        return _same(bare[0], bare_answer[0], decide)
    return decide(truth, answer) if decide else None


def _is_word(text: str) -> bool:
    word = without_text(text)
    if word != text and re.fullmatch(r"[A-Za-z一-鿿 ]+", word):
        return True
    return bool(_WORD.fullmatch(text)) and not (text.islower() and list(text) == sorted(text))


def _based(text: str) -> tuple[str, int] | None:
    found = _BASE.fullmatch(text)
    base = _BASES.get(found[2]) or (int(found[2]) if found[2].isdigit() else 0) if found else 0
    if not found or not 2 <= base <= 36 or any(int(one, 36) >= base for one in found[1]):
        return None
    return found[1].lstrip("0"), base


def _same_bases(truth: str, answer: str, based: tuple[str, int] | None, other: tuple[str, int] | None) -> bool:
    if based and other:
        return based == other
    # The question asks for the base, so the digits alone are the answer too; the value in base ten is another form.
    return (based or other)[0] == (answer if based else truth).lstrip("0")  # type: ignore[index]


def _without_unit(text: str) -> tuple[str, str]:
    r"""Takes the unit off: `5 \text{ cm}`, 5 cm, 5元, `\$5`, 90°; the unit comes in one spelling, "" without one."""
    if DOLLAR in text or text[:1] in "€£¥￥":
        return re.sub(f"[{DOLLAR}€£¥￥]", "", text), "yuan" if text[0] in "¥￥" else "$"
    found = _UNIT_TEXT.search(text) or _UNIT_WORDS.search(text)
    if not found or not found.start():
        return text, ""
    unit = next(filter(None, found.groups()), "").strip().lower()
    return text[: found.start()].strip(), _UNIT.get(unit, unit)


def _number(text: str) -> tuple[Fraction, bool, str, str] | None:
    """Reads a number: its value, whether there is a per cent sign, its unit, and the decimal that it is written as."""
    bare, unit = _without_unit(text)
    percent = bare.endswith("%")
    bare = bare.rstrip("%").strip()
    value = _value(bare)
    if value is None:
        read = read_number(bare) if re.search(r"\d", bare) and "\\" not in bare else None
        value = read.value if read else None
    decimal = bare if re.fullmatch(r"[-+]?\d*\.\d+", bare) else ""
    return None if value is None else (value, percent, unit, decimal)


def _value(text: str) -> Fraction | None:
    if found := _PLAIN.fullmatch(text):
        value = Fraction(found[2].replace(",", ""))
    elif found := _EXPONENT.fullmatch(text):
        value = Fraction(found[2].replace(",", "")) * Fraction(10) ** int(found[3])
    elif found := _POWER.fullmatch(text):
        power = int(found[3] or found[4])
        if abs(power) > 5000:
            return None
        value = Fraction((found[2] or "1").replace(",", "")) * Fraction(10) ** power
    elif found := _FRACTIONS.fullmatch(text):
        below = int(found[5] or found[6])
        if not below:
            return None
        part = Fraction(int(found[3] or found[4]), below)
        if found[2] and not 0 < part < 1:
            return None
        value = part + int(found[2] or 0)
    elif found := _SLASH.fullmatch(text):
        if not int(found[4]):
            return None
        value = Fraction(int(found[3]), int(found[4])) + int(found[2] or 0)
    else:
        return None
    return -value if found[1] == "-" else value


def _same_numbers(truth: tuple, answer: tuple) -> bool:
    (value, percent, unit, decimal), (other, other_percent, other_unit, other_decimal) = truth, answer
    if unit in _UNITS and other_unit in _UNITS and unit != other_unit:
        return False
    if value == other:
        return True
    if percent != other_percent and (value / 100 == other if percent else value == other / 100):
        return True
    return near(decimal, other) or near(other_decimal, value)


def near(decimal: str, value: Fraction) -> bool:
    """Tells whether a decimal of six or more digits is a value that has no end as a decimal, cut or rounded there."""
    digits = decimal.lstrip("-+0.").replace(".", "")
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    if not decimal or (len(digits) < 6) or (below == 1 and len(digits) < 15):
        return False
    return abs(Fraction(decimal) - value) < Fraction(1, 10 ** len(decimal.partition(".")[2]))
