"""The figures of docs/rewards.md: ``python benchmarks/rewards.py [gsm8k/train.jsonl]``.

Calls a second of ``gsm8k`` on answers of 300 characters, answers a second of ``math`` and of math-verify called
directly with its defaults, in turn and on the same answers; with a file of GSM8K, all of its solutions.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.rewards.gsm8k import MARK, gsm8k  # noqa: E402
from common.rewards.math_reward import math  # noqa: E402

BATCHES, PROMPTS, GROUP = 7, 40, 8
PROSE = (
    "We note that the sum of the two terms is $x+y={}$, so the first claim follows. ",
    r"Then \[ a_{} = 3a + 2 \] holds for all such values, as one sees by induction. ",
    "Checking the case $n={}$ by hand shows the pattern. ",
)


def measure_gsm8k() -> None:
    """Prints calls a second, the median of seven rounds."""
    prose = ("She eats three for breakfast every morning and bakes muffins. " * 5)[:290]
    for end in ("#### 72", "#### 73", "#### $72.00", "#### 72 clips", "It is 72."):
        rates = [_rate(lambda answer=f"{prose}\n{end}": gsm8k("openai/gsm8k", answer, "72"), 50_000) for _ in range(7)]
        print(f"gsm8k, ... {end:<14} {statistics.median(rates):>9,.0f} calls/s")


def _rate(call: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return times / (time.perf_counter() - started)


def measure_math() -> None:
    """Prints answers a second; the first batch warms sympy's caches on both sides and does not count."""
    from math_verify import parse, verify

    draw = random.Random(0)
    math("warm", r"\boxed{1/2}", "0.5")
    ways = {
        "math-verify": lambda answer, truth: float(verify(parse(rf"\boxed{{{truth}}}"), parse(answer))),
        "math": lambda answer, truth: math("any", answer, truth)["score"],
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    different = 0
    for _ in range(BATCHES):
        rows = [row for _ in range(PROMPTS) for row in _group(draw)]
        scores = []
        for name, way in ways.items():
            started = time.perf_counter()
            scores.append([way(*row) for row in rows])
            rates[name].append(len(rows) / (time.perf_counter() - started))
        different += sum(a != b for a, b in zip(*scores, strict=True))
    for name, all_rates in rates.items():
        print(f"{name:<14} {statistics.median(all_rates[1:]):>9,.0f} answers/s")
    print(f"{different} of {BATCHES * PROMPTS * GROUP:,} scores differ")


def _group(draw: random.Random) -> list[tuple[str, str]]:
    """Returns a group of (answer, truth): half of the answers are right, in another spelling or not."""
    a, b = draw.randint(2, 9), draw.randint(10, 40)
    kinds = [
        (str(b * a), [str(b), str(b + 1), f"{b * a}.0"]),
        (rf"\frac{{{a}}}{{{b}}}", [f"{a}/{b}", rf"\frac{{{2 * a}}}{{{2 * b}}}", rf"\frac{{{a + 1}}}{{{b}}}"]),
        (rf"{a}\sqrt{{3}}", [rf"\frac{{{3 * a}}}{{\sqrt{{3}}}}", rf"{a + 1}\sqrt{{3}}"]),
        (f"x^2+{2 * a}x+{a * a}", [f"(x+{a})^2", f"x^2+{a}x"]),
        (f"({a},{b})", [f"({a}, {b})", f"({b},{a})"]),
    ]
    truth, others = draw.choices(kinds, weights=(55, 20, 10, 10, 5))[0]
    values = [truth if draw.random() < 0.5 else draw.choice(others) for _ in range(GROUP)]
    prose = ["".join(draw.choice(PROSE).format(draw.randint(1, 99)) for _ in range(8)) for _ in values]
    return [(rf"{text}So the answer is $\boxed{{{value}}}$.", truth) for text, value in zip(prose, values, strict=True)]


def count_gsm8k(path: Path) -> None:
    """Prints how many solutions of GSM8K score 1.0 against their own answer and 0.0 against a changed one."""
    solutions = [json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").splitlines()]
    own = changed = 0
    for solution in solutions:
        number = solution.rsplit(MARK, 1)[1].strip()
        other = str(int(number.replace(",", "")) + 1)
        own += gsm8k("openai/gsm8k", solution, number)["score"] == 1.0
        changed += gsm8k("openai/gsm8k", solution, other)["score"] == 0.0
    print(f"{len(solutions):,} solutions: {own:,} right with their answer, {changed:,} wrong with a changed one")


if __name__ == "__main__":
    measure_gsm8k()
    measure_math()
    if len(sys.argv) > 1:
        count_gsm8k(Path(sys.argv[1]))
