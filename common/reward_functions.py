"""All reward functions by name, and the bench that tries one before a run.

    REWARD_FUNC_PATH=common/reward_functions.py REWARD_FUNC_NAME=gsm8k ./grpo/train.sh
    python -m common.reward_functions bench --reward gsm8k --data train.parquet

Each has verl's signature (data_source, solution_str, ground_truth, extra_info) and says in its docstring what it
scores, its parameters and its source. docs/rewards.md lists them.
"""

from __future__ import annotations

import argparse
import sys

from common.rewards.compose import FUNCTIONS

__all__ = list(FUNCTIONS)  # noqa: PLE0605
globals().update(FUNCTIONS)  # each under its name, where verl and `import` look for it


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from common.rewards.bench.report import add_options, run

    parser = argparse.ArgumentParser(prog="python -m common.reward_functions", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add_options(commands.add_parser("bench", help="try a reward function on real rows"))
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
