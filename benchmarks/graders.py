"""Scores of recorded answers by the suites' rewards against those of the sets' own graders.

    .venv/bin/python benchmarks/graders.py

Answers are made from truths: right ones in several spellings, wrong ones beside them, 2,100 in all. The graders are
verl's copy of MATH's (Hendrycks et al.), GSM8K's rule (the last number, as a number) and MMLU-Pro's two patterns. What
differs is shown.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.rewards.choice import multiple_choice  # noqa: E402
from common.rewards.math_reward import math  # noqa: E402

Case = tuple[str, str]  # answer, truth


def math_cases(draw: random.Random) -> Iterator[Case]:
    """Boxed answers that MATH's grader can judge by their text."""
    for _ in range(700):
        a, b = draw.randint(1, 99), draw.randint(2, 99)
        kinds = [str(a), rf"\frac{{{a}}}{{{b}}}", rf"{a}\sqrt{{{b}}}", f"({a}, {b})", f"{a}x+{b}", rf"\text{{({a})}}"]
        truth = draw.choice([*kinds, f"0.{a}", rf"{a}\pi", f"[{a}, {a + b}]", f"{a}^\\circ"])
        answer = truth if draw.random() < 0.5 else truth.replace(str(a), str(a + 100))
        dressed = draw.choice([answer, answer.replace("frac", "dfrac"), rf"{answer}\!", answer.replace(" ", "")])
        yield f"First we look at {b}. So it is $\\boxed{{{dressed}}}$.", truth


def number_cases(draw: random.Random) -> Iterator[Case]:
    """Answers to word problems."""
    for _ in range(700):
        truth = draw.randint(0, 99_999)
        value = truth if draw.random() < 0.5 else truth + draw.choice((-1, 1, 10))
        shown = draw.choice((f"{value:,}", str(value), f"\\${value}", f"{value}.0", f"{value}\\%"))
        yield f"There are {draw.randint(2, 9)} boxes, so \\boxed{{{shown}}}", str(truth)


def choice_cases(draw: random.Random) -> Iterator[Case]:
    """Answers to multiple choice, in the words that MMLU-Pro's grader reads."""
    letters = "ABCDEFGHIJ"
    for _ in range(700):
        truth, other = draw.choice(letters), draw.choice(letters)
        said = truth if draw.random() < 0.5 else draw.choice(letters)
        form = draw.choice(("The answer is ({}).", "the answer is {}.", "Answer: {}", "So the answer is ({})"))
        yield f"Option {other} looks wrong at first. Let us see.\n\n{form.format(said)}", truth


def of_math(answer: str, truth: str) -> float:
    """MATH's grader."""
    from verl.utils.reward_score import math_reward

    return float(math_reward.compute_score(answer, truth))


def of_numbers(answer: str, truth: str) -> float:
    """The last number, without commas, currency and percent, compared as a number."""
    found = re.findall(r"-?[0-9][0-9,]*\.?[0-9]*", answer)
    return float(bool(found) and float(found[-1].replace(",", "")) == float(truth))


def of_choices(answer: str, truth: str) -> float:
    """MMLU-Pro's patterns, the first that fits."""
    found = re.search(r"answer is \(?([A-J])\)?", answer) or re.search(r".*[aA]nswer:\s*([A-J])", answer)
    return float(bool(found) and found[1] == truth)


def patient_math(name: str, answer: str, truth: str) -> dict[str, float]:
    """The reward, with time for a machine that is busy."""
    return math(name, answer, truth, timeout_s=60)


TABLE: list[tuple[str, Callable, Callable, Callable]] = [
    ("MATH", math_cases, of_math, patient_math),
    ("GSM8K", number_cases, of_numbers, patient_math),
    ("MMLU-Pro", choice_cases, of_choices, multiple_choice),
]


def main() -> int:
    """Print agreement; exit status 1 when it is below 99.5%."""
    total = agreed = 0
    for name, cases, grader, reward in TABLE:
        differ = []
        some = list(cases(random.Random(0)))
        for answer, truth in some:
            theirs, ours = grader(answer, truth), reward(name, answer, truth)["acc"]
            if theirs != ours:
                differ.append((answer, truth, theirs, ours))
        total, agreed = total + len(some), agreed + len(some) - len(differ)
        print(f"{name}: {len(some) - len(differ):,} of {len(some):,} equal")
        for answer, truth, theirs, ours in differ[:5]:
            print(f"  {answer[-60:]!r}, truth {truth!r}: grader {theirs:g}, reward {ours:g}")
    print(f"all: {agreed / total:.2%} of {total:,}")
    return int(agreed / total < 0.995)


if __name__ == "__main__":
    sys.exit(main())
