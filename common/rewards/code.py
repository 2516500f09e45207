r"""Reward for programs: the share of test cases that the Python program in an answer passes.

    >>> code("mbpp", "```python\ndef f(x):\n    return x + 1\n```", ["assert f(1) == 2", "assert f(2) == 4"])
    {'score': 0.5, 'acc': 0.0, 'passed': 1.0, 'ran': 2.0, 'tests': 2.0, 'timeouts': 0.0, 'has_code': 1.0}

The program runs in the sandbox (`common.rewards.sandbox`), never in this process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from common.answers import behind_thought
from common.answers.final import tagged
from common.rewards.code_tests import Case, read_cases
from common.rewards.result import refuse
from common.rewards.sandbox import run as sandbox
from common.rewards.sandbox.execute import Limits

FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


def code(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    *,
    timeout_s: float = 6.0,
    total_s: float = 30.0,
    memory_mb: int = 1024,
    max_tests: int = 10,
    all_or_nothing: bool = False,
    require: Iterable[str] = sandbox.REQUIRED,
    **kwargs: Any,
) -> dict[str, float]:
    """Scores one answer; verl calls it by keyword, from many threads.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer. Its last ```python block is run; the whole text where it has no fences.
        ground_truth: Column `reward_model.ground_truth`: the test cases, in a shape of `code_tests.read_cases`.
        extra_info: Column `extra_info`. Unused.
        timeout_s: Seconds for one test.
        total_s: Seconds for all tests of one answer; those not reached are not passed.
        memory_mb: MiB of address space.
        max_tests: Only the first so many tests are run. verl's own score for code takes 10 too.
        all_or_nothing: 1 for all tests passed and else 0, as in DeepSeek-R1 and DeepCoder. The default is the share
            of tests passed, as in verl's `prime_code` (which calls it `continuous`): a weak model then learns from
            answers that are partly right, but is also paid for a program that prints the most frequent output.
        require: Names of protections without which nothing is run (`python -m common.rewards.sandbox` lists them); an
            empty list runs programs wherever it is.
        **kwargs: What verl adds when a reward model runs next to the function; anything else is refused.

    Returns:
        `score` in [0, 1]; `acc` 1.0 when all tests passed; `passed`, `ran` (the program got to an end in them),
        `timeouts` and `tests` as counts; `has_code` 1.0 when there was a program to run. Always these keys.

    Raises:
        ValueError: The ground truth has no known shape, or `max_tests` is not positive.
        SandboxError: The machine lacks something of `require`, or cannot run programs at all.
    """
    refuse(kwargs, "code", "it has timeout_s, total_s, memory_mb, max_tests, all_or_nothing, require")
    if max_tests < 1:
        raise ValueError(f"max_tests={max_tests} must be at least 1")
    cases = read_cases(ground_truth)[:max_tests]
    program = extract_program(solution_str)
    results: list[dict] = []
    if program is not None:
        limits = Limits(timeout_s, total_s, memory_mb, stop_early=all_or_nothing)
        results = sandbox.run(program, [case.test for case in cases], limits, require)
    passed = sum(map(_passed, cases, results))
    acc = float(passed == len(cases))
    return {
        "score": acc if all_or_nothing else passed / len(cases),
        "acc": acc,
        "passed": float(passed),
        "ran": float(sum(result["status"] == "ok" for result in results)),
        "tests": float(len(cases)),
        "timeouts": float(sum(result["status"] == "timeout" for result in results)),
        "has_code": float(program is not None),
    }


def extract_program(text: Any) -> str | None:
    """Finds the program in an answer.

    Args:
        text: The whole answer. Its thought is not part of it.

    Returns:
        The last block fenced as python, py, python3 or nothing; where there is no fence at all, what is in
        `<answer>`, else the whole text; None when there is neither, or the thought or the last fence is not closed (the
        answer was cut off).
    """
    text = behind_thought(text)
    if text is None:
        return None
    text = text.replace("\r\n", "\n")
    if "```" not in text:
        text = tagged(text) or text
        return text if text.strip() else None
    blocks = [body for language, body in FENCE.findall(text) if language.lower() in ("", "py", "python", "python3")]
    return blocks[-1] if blocks else None


def _passed(case: Case, result: dict) -> bool:
    if result["status"] != "ok":
        return False
    try:
        return case.judge(result["out"])
    except (ValueError, TypeError, RecursionError, OverflowError):  # the program's process sent no such value
        return False
