"""``python -m common.preflight grpo``: check the knobs of an algorithm, plan its memory, resolve what is ``auto``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common import __version__

if TYPE_CHECKING:
    from common.preflight.knobs import Knobs
    from common.preflight.machine import Machine

EPILOG = """knobs are read from the environment, as a train.sh exports them:
  MODEL_PATH=/models/Qwen3-8B python -m common.preflight grpo
  MODEL_PATH=/models/Qwen3-8B python -m common.preflight grpo --gpus 8x80GB     hardware you do not have yet; of the
                                                                               model only config.json is needed
  python -m common.preflight sft -- trainer.total_epochs=2                      arguments for verl after --
  PREFLIGHT=fast ./grpo/train.sh     without verl's own validation, for which verl must be imported (some seconds)
  PREFLIGHT=off ./grpo/train.sh      resolves the knobs and starts, whatever is wrong
"""


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m common.preflight",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("algorithm", help="folder of the train.sh, e.g. grpo")
    parser.add_argument(
        "--gpus", metavar="8x80GB", help="plan for these: [machines x] number x memory [@ Gbit/s between]"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--resolved", type=Path, help="write NAME and VALUE of each knob here, NUL-separated")
    return parser


def main() -> int:
    """Run the preflight; the exit status is 0 when a run can start, 2 when it cannot."""
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, overrides = options().parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    try:
        from common.preflight.knobs import read_knobs

        machine = _machine(arguments.gpus)
        knobs = read_knobs(arguments.algorithm, arguments=overrides)
    except ModuleNotFoundError as error:
        print(f"error: {sys.executable} has no {error.name}; run ./setup_env.sh first", file=sys.stderr)
        return 2
    except ValueError as error:
        from common.console import write_error

        write_error(f"error: {error}")
        return 2
    kept = False
    try:
        run_dir = _check(knobs, machine)
        kept = _report(knobs, run_dir, arguments)
    finally:
        if knobs.data and not kept:
            knobs.data.discard()
    return 2 if knobs.errors else 0


def _report(knobs: Knobs, run_dir: Path | None, arguments: argparse.Namespace) -> bool:
    """Show what was found; returns whether a run may start with it."""
    from common.preflight import report
    from common.preflight.resolved import write_resolved

    if arguments.json:
        print(report.as_json(knobs))
    elif arguments.resolved:
        report.show(knobs)
    else:
        report.show_table(knobs)
    if knobs.errors or not arguments.resolved:
        return False
    write_resolved(arguments.resolved, knobs, run_dir)
    return True


def _machine(gpus: str | None) -> Machine:
    from common.plan.machine import parse_gpus
    from common.preflight.machine import planned_machine, this_machine

    return planned_machine(parse_gpus(gpus)) if gpus else this_machine()


def _check(knobs: Knobs, machine: Machine) -> Path | None:
    """Run all checks, with verl's own in a separate process.

    ``PREFLIGHT=fast`` leaves out verl's own, ``PREFLIGHT=off`` nearly all: the knobs are resolved.
    """
    from common.preflight.checks import check
    from common.preflight.verl_check import VerlCheck

    if os.environ.get("PREFLIGHT") == "off":
        return check(knobs, machine, everything=False)
    if knobs.errors or os.environ.get("PREFLIGHT") == "fast":
        return check(knobs, machine)
    verl = VerlCheck()
    try:
        return check(knobs, machine, verl)
    finally:
        verl.cancel()


if __name__ == "__main__":
    sys.exit(main())
