"""Reads the test cases of a coding exercise, in the shapes that data sets have them, and judges what came back.

The expected values stay in this process. Where a test is an assert, only its expression is sent to the sandbox
(`f(1)` of `assert f(1) == 2`) and the value is compared here: a program cannot answer for a comparison it never sees.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OVERHEAD = 4096  # bytes that a test may give beyond twice its expected output


@dataclass(frozen=True)
class Case:
    """One test: what the sandbox runs, and whether what it gave is right.

    Attributes:
        test: The job, in the form of `sandbox_child.py`.
        judge: Takes the text that came back from a test that ended well; True when it is right.
    """

    test: dict
    judge: Callable[[str], bool]


def read_cases(ground_truth: Any) -> list[Case]:
    r"""Reads the test cases of one row.

    Args:
        ground_truth: One of these, or JSON text of it (see docs/code_reward.md):
            {"inputs": [...], "outputs": [...]}: text for stdin and the expected stdout;
            the same with "fn_name": arguments and the expected value, function or method of class Solution;
            [{"input": ..., "output": ...}, ...]: like the first;
            "assert f(1) == 2\n..." or a list of such texts;
            {"test_list": [...], "test_setup_code": ...} (MBPP); {"test": ..., "entry_point": ...} (HumanEval).

    Returns:
        The cases, in order.

    Raises:
        ValueError: None of these shapes, or no test in it.
    """
    truth = _plain(_from_json(ground_truth))
    if isinstance(truth, str):
        cases = _asserts(truth, "")
    elif isinstance(truth, list) and truth and all(isinstance(item, str) for item in truth):
        cases = [case for text in truth for case in _asserts(text, "")]
    elif isinstance(truth, list) and all(isinstance(x, dict) and {"input", "output"} <= set(x) for x in truth):
        cases = [_stdin(item["input"], item["output"]) for item in truth]
    elif isinstance(truth, dict) and {"inputs", "outputs"} <= set(truth):
        cases = _pairs(truth)
    elif isinstance(truth, dict) and "test_list" in truth:
        setup = truth.get("test_setup_code") or ""
        cases = [case for text in truth["test_list"] for case in _asserts(text, setup)]
    elif isinstance(truth, dict) and "test" in truth:
        call = f"\ncheck({truth['entry_point']})\n" if truth.get("entry_point") else ""
        cases = [_statements(truth["test"] + call)]
    else:
        raise ValueError(f"ground truth {str(ground_truth)[:200]!r} has no known shape; see docs/code_reward.md")
    if not cases:
        raise ValueError(f"ground truth {str(ground_truth)[:200]!r} has no test in it")
    return cases


def is_tests(ground_truth: Any) -> bool:
    """Tells the tests of a program from an answer: objects, lists of objects, and asserts, in the shapes above."""
    first = ground_truth[0] if isinstance(ground_truth, list | tuple) and ground_truth else ground_truth
    if not isinstance(first, dict) and not str(first).lstrip().startswith(("assert ", "import ", "def ", "{", "[")):
        return False
    try:
        return bool(read_cases(ground_truth))
    except (ValueError, SyntaxError, KeyError, TypeError):
        return False


def same_text(given: str, expected: str) -> bool:
    """Compares two outputs line by line, without white space at the ends of lines and empty lines at the end."""
    return _lines(given) == _lines(expected)


def decode(value: Any) -> Any:
    """Turns what `sandbox_child.encode` made back into the value.

    Args:
        value: JSON, already read.

    Returns:
        None, a bool, number, str, bytes, list, tuple, set, frozenset or dict.

    Raises:
        ValueError: Not of that form. It comes from the program's process, so it can be anything.
        TypeError: A set or a dict of things that cannot be in one.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError(f"not a value: {str(value)[:80]}")
    kind, content = next(iter(value.items()))
    readers = {
        "int": lambda: int(content, 16),
        "complex": lambda: complex(*content),
        "bytes": lambda: bytes.fromhex(content),
        "tuple": lambda: tuple(decode(item) for item in content),
        "set": lambda: {decode(item) for item in content},
        "frozenset": lambda: frozenset(decode(item) for item in content),
        "dict": lambda: {decode(key): decode(item) for key, item in content},
    }
    if kind not in readers:
        raise ValueError(f"not a value: {kind[:80]!r}")
    return readers[kind]()


def _from_json(text: Any) -> Any:
    if isinstance(text, str) and text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"ground truth {text[:200]!r} is not JSON: {error}") from error
    return text


def _plain(value: Any) -> Any:
    """The same in lists and dicts: columns of a Parquet file arrive as numpy arrays."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _text(value: Any) -> str:
    """Text of an input or output; some sets give a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _pairs(truth: dict) -> list[Case]:
    inputs, outputs, name = truth["inputs"], truth["outputs"], truth.get("fn_name")
    if len(inputs) != len(outputs):
        raise ValueError(f"ground truth has {len(inputs)} inputs and {len(outputs)} outputs")
    pairs = zip(inputs, outputs, strict=True)
    return [_call(name, given, expected) if name else _stdin(given, expected) for given, expected in pairs]


def _stdin(given: Any, expected: Any) -> Case:
    text = _text(expected)
    limit = 2 * len(text.encode("utf-8", "replace")) + OVERHEAD
    return Case({"kind": "stdin", "input": _text(given), "limit": limit}, lambda out: same_text(out, text))


def _call(name: str, given: Any, expected: Any) -> Case:
    """A call with JSON arguments: a list, or text with one JSON value a line (LiveCodeBench)."""
    accepted = [expected]
    if isinstance(given, str):
        try:
            given = [json.loads(line) for line in given.split("\n") if line.strip()]
            accepted = [json.loads(expected) if isinstance(expected, str) else expected]
        except ValueError as error:
            raise ValueError(f"input {given!r} or output {expected!r} of {name} is not JSON: {error}") from error
    elif not isinstance(given, list):
        raise ValueError(f"input {given!r} of {name} is not a list of arguments")
    elif isinstance(expected, list) and len(expected) == 1:
        accepted.append(expected[0])  # APPS wraps the value in a list, others do not; its own script takes both too
    accepted = [_as_json(value) for value in accepted]
    test = {"kind": "call", "name": name, "args": given}
    return _value(test, accepted[0], lambda value: any(_as_json(value) == right for right in accepted))


def _value(test: dict, expected: Any, judge: Callable[[Any], bool]) -> Case:
    """A test that gives a value; `expected` only tells how long that may be."""
    limit = 8 * len(repr(expected).encode("utf-8", "replace")) + OVERHEAD
    return Case({**test, "limit": limit}, lambda out: bool(judge(decode(json.loads(out)))))


def _equals(expected: Any) -> Callable[[Any], bool]:
    return lambda value: value == expected


def _as_json(value: Any) -> Any:
    """The value as JSON would give it back: tuples are lists, and keys are text."""
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, dict):
        return {key if isinstance(key, str) else json.dumps(key): _as_json(item) for key, item in value.items()}
    return value


def _statements(code: str) -> Case:
    return Case({"kind": "run", "code": code, "limit": OVERHEAD}, lambda out: out == "true")


def _asserts(text: str, setup: str) -> list[Case]:
    """Splits a text of asserts into one case each; other statements go before those that follow them.

    Raises:
        ValueError: Not Python, or nothing is asserted.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"ground truth {text[:200]!r} is neither JSON nor Python: {error}") from error
    cases, before = [], setup
    for statement in body:
        if isinstance(statement, ast.Assert):
            cases.append(_assert(statement, before))
        else:
            before += "\n" + ast.unparse(statement)
    if not cases and any(isinstance(node, ast.Assert) for statement in body for node in ast.walk(statement)):
        cases = [_statements(f"{setup}\n{text}")]  # asserts inside a loop or a function
    return cases


def _assert(statement: ast.Assert, before: str) -> Case:
    """An assert as an expression to send and a value to compare with; "== literal" is compared here."""
    test = statement.test
    job = {"kind": "expr", "setup": before}
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        for expression, literal in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
            try:
                expected = ast.literal_eval(literal)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue  # not a literal
            return _value({**job, "code": ast.unparse(expression)}, expected, _equals(expected))
    return _value({**job, "code": f"not not ({ast.unparse(test)})"}, True, lambda value: value is True)
