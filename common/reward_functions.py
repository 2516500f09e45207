"""All reward functions by name, and the bench that tries one before a run.

    REWARD_FUNC_PATH=common/reward_functions.py REWARD_FUNC_NAME=gsm8k ./grpo/train.sh
    python -m common.reward_functions bench --reward gsm8k --data train.parquet

Each has verl's signature (data_source, solution_str, ground_truth, extra_info) and says in its docstring what it
scores, its parameters and its source. docs/rewards.md lists them.
"""

from __future__ import annotations

import argparse
import sys

from common.rewards.choice import multiple_choice
from common.rewards.compose import by_data_source, code, combine
from common.rewards.gsm8k import gsm8k
from common.rewards.match import exact_match, format_match, normalized_match
from common.rewards.math_reward import math
from common.rewards.shaping import language, linear_length, repetition, soft_overlong

__all__ = [
    "by_data_source",
    "code",
    "combine",
    "exact_match",
    "format_match",
    "gsm8k",
    "language",
    "linear_length",
    "math",
    "multiple_choice",
    "normalized_match",
    "repetition",
    "soft_overlong",
]


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from common.rewards.bench.report import add_options, run

    parser = argparse.ArgumentParser(prog="python -m common.reward_functions", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add_options(commands.add_parser("bench", help="try a reward function on real rows"))
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
