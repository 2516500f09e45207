"""Answers in JSON that must fit a JSON Schema, and perhaps be a value.

The part of JSON Schema (draft 2020-12) that such tasks use; a keyword that is not here is an error, never passed over.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from common.answers.thought import behind_thought
from common.rewards.result import as_text, refuse, unusable
from common.rewards.structured import LONGEST, described, last_block

WANTED = 'a JSON Schema, or {"schema": ..., "value": ...} where the answer must also be that value'
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
}
SAYS_NOTHING = {"$schema", "$id", "$defs", "definitions", "title", "description", "default", "examples", "format"}
DEEPEST = 64  # of a schema: parts in parts, and steps that stay at one value


def json_schema(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    """Scores 1.0 when the answer is JSON that fits a schema.

    Source: JSON Schema, draft 2020-12, https://json-schema.org; `format` is not asserted, as its standard says.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer: the last ``` block that is JSON's or nobody's, else all of it behind the
            thought. NaN, infinity and names that stand twice in an object are no JSON.
        ground_truth: The schema, or `{"schema": ..., "value": ...}`: then the answer must also be the value (1.0 = 1,
            the order of names does not matter); JSON of either.
        extra_info: Column `extra_info` of the row. Unused.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score` and `acc`, 1.0 or 0.0, and `format`, 1.0 when the answer is JSON.

    Raises:
        ValueError: If the ground truth is no schema, or has a keyword that is not known here.
    """
    if kwargs:
        refuse(kwargs, "json_schema", "")
    truth = described("json_schema", ground_truth, WANTED)
    if not isinstance(truth, dict):
        raise unusable("json_schema", ground_truth, WANTED)
    compared = set(truth) == {"schema", "value"}
    schema = truth["schema"] if compared else truth
    _check_keywords(schema)
    text = (behind_thought(as_text(solution_str)) or "")[:LONGEST]
    try:
        value = json.loads(last_block(text, ("json",)), object_pairs_hook=_once, parse_constant=_refused)
    except (ValueError, RecursionError):
        return {"score": 0.0, "acc": 0.0, "format": 0.0}
    try:
        right = fits(value, schema, schema) and (not compared or same(value, truth["value"]))
    except RecursionError:  # the answer is nested too deep; what a schema does at one value ends before
        right = False
    return {"score": float(right), "acc": float(right), "format": 1.0}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice")
    return made


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal; true is not 1, 1.0 is."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def fits(value: Any, schema: Any, root: Any, depth: int = 0) -> bool:
    """Whether a value fits a schema; `root` is where references begin.

    Raises:
        ValueError: If a reference leads nowhere, or parts follow one another at one value without an end.
        RecursionError: If the value is nested too deep.
    """
    if isinstance(schema, bool):
        return schema
    if depth > DEEPEST:
        raise ValueError(f"ground_truth: the schema refers to itself more than {DEEPEST} times")

    def inner(part: Any, of: Any) -> bool:
        return fits(part, of, root, depth + 1 if part is value else 0)

    return all(
        KEYWORDS[name](value, wanted, schema, inner, root) for name, wanted in schema.items() if name in KEYWORDS
    )


def _check_keywords(schema: Any, depth: int = 0) -> None:
    if isinstance(schema, bool):
        return
    if depth > DEEPEST:
        raise ValueError(f"ground_truth: the schema is nested more than {DEEPEST} deep")
    if not isinstance(schema, dict):
        raise unusable("json_schema", schema, WANTED)
    if unknown := set(schema) - set(KEYWORDS) - SAYS_NOTHING - USED_BY_OTHERS:
        raise ValueError(f"ground_truth: json_schema does not know {', '.join(sorted(map(str, unknown)))}")
    for name in ("properties", "patternProperties", "$defs", "definitions"):
        for part in schema.get(name, {}).values():
            _check_keywords(part, depth + 1)
    for name in ("items", "additionalProperties", "contains", "not", "propertyNames", "if", "then", "else"):
        if name in schema:
            _check_keywords(schema[name], depth + 1)
    for name in ("allOf", "anyOf", "oneOf", "prefixItems"):
        for part in schema.get(name, []):
            _check_keywords(part, depth + 1)


def _type(value: Any, wanted: Any, *_: Any) -> bool:
    names = wanted if isinstance(wanted, list) else [wanted]
    if unknown := [name for name in names if name not in TYPES]:
        raise ValueError(f"ground_truth: {unknown[0]!r} is no type of JSON Schema; there are {', '.join(TYPES)}")
    return any(TYPES[name](value) for name in names)


def _reference(value: Any, wanted: str, schema: Any, inner: Callable, root: Any) -> bool:
    if not wanted.startswith("#"):
        raise ValueError(f"ground_truth: $ref {wanted!r} leads out of the schema; only #/... is followed")
    part = root
    for name in filter(None, wanted[1:].split("/")):
        name = name.replace("~1", "/").replace("~0", "~")
        if not isinstance(part, Mapping) or name not in part:
            raise ValueError(f"ground_truth: $ref {wanted!r} leads nowhere")
        part = part[name]
    return inner(value, part)


def _properties(value: Any, wanted: Any, schema: Any, inner: Callable, root: Any) -> bool:
    return not isinstance(value, dict) or all(
        inner(value[name], part) for name, part in wanted.items() if name in value
    )


def _pattern_properties(value: Any, wanted: Any, schema: Any, inner: Callable, root: Any) -> bool:
    return not isinstance(value, dict) or all(
        inner(item, part)
        for pattern, part in wanted.items()
        for name, item in value.items()
        if re.search(pattern, name)
    )


def _additional(value: Any, wanted: Any, schema: Any, inner: Callable, root: Any) -> bool:
    if not isinstance(value, dict):
        return True
    patterns = schema.get("patternProperties", {})
    others = [
        item
        for name, item in value.items()
        if name not in schema.get("properties", {}) and not any(re.search(pattern, name) for pattern in patterns)
    ]
    return all(inner(item, wanted) for item in others)


def _items(value: Any, wanted: Any, schema: Any, inner: Callable, root: Any) -> bool:
    return not isinstance(value, list) or all(
        inner(item, wanted) for item in value[len(schema.get("prefixItems", [])) :]
    )


def _contains(value: Any, wanted: Any, schema: Any, inner: Callable, root: Any) -> bool:
    if not isinstance(value, list):
        return True
    count = sum(inner(item, wanted) for item in value)
    return schema.get("minContains", 1) <= count <= schema.get("maxContains", len(value))


def _conditional(value: Any, wanted: Any, schema: Any, inner: Callable, root: Any) -> bool:
    return inner(value, schema.get("then" if inner(value, wanted) else "else", True))


def _limit(kind: str, compare: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    sized = kind != "number"

    def check(value: Any, wanted: Any, *_: Any) -> bool:
        return not TYPES[kind](value) or compare(len(value) if sized else value, wanted)

    return check


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return frozenset((name, _hashable(item)) for name, item in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else (isinstance(value, bool), value)


def _multiple_of(value: Any, wanted: Any, *_: Any) -> bool:
    if not TYPES["number"](wanted) or not 0 < wanted < math.inf:
        raise ValueError(f"ground_truth: multipleOf is {wanted!r}; it must be a number above 0")
    if not TYPES["number"](value):
        return True
    return (isinstance(value, int) or math.isfinite(value)) and _exact(value) % _exact(wanted) == 0


def _exact(number: int | float) -> Fraction:
    return Fraction(number if isinstance(number, int) else repr(number))  # 0.1 as it is written, not as it is stored


def _at_least(one: Any, other: Any) -> bool:
    return one >= other


def _at_most(one: Any, other: Any) -> bool:
    return one <= other


USED_BY_OTHERS = {"then", "else", "minContains", "maxContains"}  # by if and contains
# Keyword -> (value, what the keyword says, its schema, check of a part, root) -> whether it fits.
KEYWORDS: dict[str, Callable[..., bool]] = {
    "$ref": _reference,
    "type": _type,
    "enum": lambda value, wanted, *_: any(same(value, one) for one in wanted),
    "const": lambda value, wanted, *_: same(value, wanted),
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional,
    "propertyNames": lambda value, wanted, schema, inner, root: (
        not isinstance(value, dict) or all(inner(name, wanted) for name in value)
    ),
    "required": lambda value, wanted, *_: not isinstance(value, dict) or all(name in value for name in wanted),
    "minProperties": _limit("object", _at_least),
    "maxProperties": _limit("object", _at_most),
    "prefixItems": lambda value, wanted, schema, inner, root: (
        not isinstance(value, list) or all(map(inner, value, wanted))
    ),
    "items": _items,
    "contains": _contains,
    "uniqueItems": lambda value, wanted, *_: (
        not wanted or not isinstance(value, list) or len(set(map(_hashable, value))) == len(value)
    ),
    "minItems": _limit("array", _at_least),
    "maxItems": _limit("array", _at_most),
    "minLength": _limit("string", _at_least),
    "maxLength": _limit("string", _at_most),
    "pattern": lambda value, wanted, *_: not isinstance(value, str) or re.search(wanted, value) is not None,
    "minimum": _limit("number", _at_least),
    "maximum": _limit("number", _at_most),
    "exclusiveMinimum": _limit("number", lambda one, other: one > other),
    "exclusiveMaximum": _limit("number", lambda one, other: one < other),
    "multipleOf": _multiple_of,
    "allOf": lambda value, wanted, schema, inner, root: all(inner(value, part) for part in wanted),
    "anyOf": lambda value, wanted, schema, inner, root: any(inner(value, part) for part in wanted),
    "oneOf": lambda value, wanted, schema, inner, root: sum(inner(value, part) for part in wanted) == 1,
    "not": lambda value, wanted, schema, inner, root: not inner(value, wanted),
    "if": _conditional,
}
