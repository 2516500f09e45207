r"""Does each truth of a file equal itself by the reward ``math``, and no other one?

.venv/bin/python benchmarks/math_truths.py math500.jsonl olympiadbench.jsonl --pairs 2000

Each line of a file is an object with the text ``truth``. Every truth is answered boxed, boxed with a space behind each
comma, and between dollar signs; then pairs of different truths are drawn at random, and those that count as equal are
listed for a person to judge.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.rewards.math_reward import math

FORMS = {
    "boxed": lambda truth: rf"So it is \boxed{{{truth}}}.",
    "boxed, a space behind each comma": lambda truth: rf"So it is \boxed{{{truth.replace(',', ', ')}}}.",
    "between dollar signs": lambda truth: f"${truth}$",
}


def score(answer: str, truth: str) -> bool:
    """Whether an answer counts as the truth."""
    return math("truths", answer, truth)["score"] == 1.0


def main() -> int:
    """Prints the counts; the status is 1 when a truth does not equal itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--pairs", type=int, default=2000, help="pairs of different truths to draw")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    everything, wrong = [], 0
    for file in arguments.files:
        truths = [json.loads(line)["truth"] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        everything += truths
        for name, form in FORMS.items():
            bad = [truth for truth in truths if not score(form(truth), truth)]
            wrong += len(bad)
            print(f"{file.name}: {len(truths) - len(bad)} of {len(truths)} equal themselves, {name}", *bad, sep="\n  ")
    draw, different, equal = random.Random(arguments.seed), sorted(set(everything)), []
    for _ in range(arguments.pairs):
        truth, other = draw.sample(different, 2)
        if score(rf"\boxed{{{other}}}", truth):
            equal.append(f"{truth}  |  {other}")
    print(f"{len(equal)} of {arguments.pairs} pairs of different truths count as equal", *equal, sep="\n  ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
