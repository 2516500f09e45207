"""``python -m common.preflight grpo``: check the knobs of an algorithm and resolve those that are ``auto``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Run the preflight; the exit status is 0 when a run can start."""
    parser = argparse.ArgumentParser(prog="python -m common.preflight", description=__doc__)
    parser.add_argument("algorithm", help="folder of the train.sh, e.g. grpo")
    parser.epilog = "-- key=value ...: the arguments for verl, which are checked together with the knobs"
    parser.add_argument("--resolved", type=Path, help="write NAME and VALUE of each knob here, NUL-separated")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, overrides = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    try:
        from common.preflight import report
        from common.preflight.checks import check
        from common.preflight.knobs import read_knobs
        from common.preflight.machine import this_machine
        from common.preflight.resolved import write_resolved
    except ModuleNotFoundError as error:
        print(f"error: {sys.executable} has no {error.name}; run ./setup_env.sh first", file=sys.stderr)
        return 2
    try:
        knobs = read_knobs(arguments.algorithm, arguments=overrides)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    run_dir = check(knobs, this_machine())
    report.show(knobs)
    if knobs.errors:
        return 2
    if arguments.resolved:
        write_resolved(arguments.resolved, knobs, run_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
