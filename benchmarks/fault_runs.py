"""A training that is killed again and again: no step that had been saved is lost.

    .venv/bin/python benchmarks/fault_runs.py            # 20 kills, about 10 minutes on 2 cores
    .venv/bin/python benchmarks/fault_runs.py --kills 3

A real SFT run of the demo saves after every step. At a random moment the launcher or a training process gets SIGKILL;
then the same command resumes. Afterwards a shard is cut, and a marker removed. Each time the newest checkpoint that was
complete before must be what the next attempt starts from.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RUN = ROOT / "outputs" / f"fault-runs-{os.getpid()}"
KNOBS = {"BATCH_SIZE": "16", "TOTAL_STEPS": "100000", "SAVE_FREQ": "1", "TEST_FREQ": "100000", "LEARNING_RATE": "1e-4"}
LIMIT_S = 180


def start(**knobs: str) -> subprocess.Popen:
    """Start or resume the run."""
    environment = os.environ | KNOBS | {"EXPERIMENT_NAME": RUN.name, "PREFLIGHT": "fast"} | knobs
    RUN.parent.mkdir(exist_ok=True)
    log = (RUN.parent / f"{RUN.name}.out").open("a")
    return subprocess.Popen([str(ROOT / "sft" / "train.sh")], env=environment, stdout=log, stderr=log)


def newest() -> int:
    """Step of the newest complete checkpoint, 0 without one."""
    from common.checkpoints.integrity import newest_complete

    checkpoint = newest_complete(RUN).checkpoint
    return checkpoint.step if checkpoint else 0


def half_written() -> list[str]:
    """Checkpoints without their marker: a save is under way, or was cut."""
    from common.checkpoints.integrity import read_marker
    from common.checkpoints.layout import checkpoints_of

    return [checkpoint.path.name for checkpoint in checkpoints_of(RUN) if read_marker(checkpoint) is None]


def processes() -> list[psutil.Process]:
    """Processes of the run, by its folder in their arguments or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(RUN) in " ".join(process.cmdline()) + process.environ().get(
                "RUN_DIR", ""
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait(condition, what: str) -> None:
    """Wait until something holds.

    Raises:
        SystemExit: After LIMIT_S seconds.
    """
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {LIMIT_S} s for {what}")
        time.sleep(0.05)


def resumed_at() -> int:
    """The step that the last attempt resumed from, as the launcher has said it."""
    said = (ROOT / "outputs" / f"{RUN.name}.out").read_text()
    found = re.findall(r"resuming \S+ \(\w+\) from (?:the checkpoint of step (\d+)|the start)", said)
    return int(found[-1] or 0) if found else 0


def trial(number: int, dice: random.Random) -> tuple[str, bool]:
    """Train, kill, and see that the next attempt resumes from what was saved; returns a line and whether it held."""
    before = newest()
    launcher = start()
    wait(lambda: newest() > before or launcher.poll() is not None, f"a step beyond {before}")
    time.sleep(dice.uniform(0, 2))
    saved = newest()  # the least that must not be lost: the run continues while this is read
    whom = "launcher" if number % 2 else "training process"
    workers = [process for process in processes() if "sft_trainer" in " ".join(process.cmdline())]
    target = launcher.pid if number % 2 or not workers else workers[-1].pid
    os.kill(target, signal.SIGKILL)
    launcher.wait(60)
    wait(lambda: not processes(), "the run's processes to end")
    left, cut = newest(), half_written()
    held = left >= saved
    moment = f"during the save of {cut[0]}" if cut else "between two saves"
    return f"kill {number:2} of the {whom}, {moment}: saved {saved}, kept {left}", held


def damaged(what: str) -> tuple[str, bool]:
    """Cut a shard of the newest checkpoint, or remove its marker; the run resumes from the newest that is whole."""
    from common.checkpoints.integrity import newest_complete

    checkpoint = newest_complete(RUN).checkpoint
    if what == "a cut shard":
        shard = next(checkpoint.path.glob("model_*.pt"))
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    else:
        (checkpoint.path / "complete.json").unlink()
        (checkpoint.path.parent / "latest_checkpointed_iteration.txt").write_text("")
    expected = newest()
    launcher = start()
    wait(lambda: newest() > checkpoint.step or launcher.poll() is not None, "a newer checkpoint")
    launcher.send_signal(signal.SIGTERM)
    launcher.wait(60)
    wait(lambda: not processes(), "the run's processes to end")
    held = resumed_at() == expected < checkpoint.step
    return f"{what} in step {checkpoint.step}: resumed from step {resumed_at()}, newest whole {expected}", held


def main() -> int:
    """Print a line a fault; exit status 1 when a saved step was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice, lost = random.Random(arguments.seed), 0
    try:
        for number in range(1, arguments.kills + 1):
            last = newest()
            line, held = trial(number, dice)
            resumed = resumed_at()
            held = held and (number == 1 or resumed == last)
            print(f"{line}; this attempt had gone on from {resumed}{'' if held else '   LOST'}", flush=True)
            lost += not held
        for what in ("a cut shard", "a missing marker"):
            line, held = damaged(what)
            print(line + ("" if held else "   WRONG"), flush=True)
            lost += not held
        print(f"{arguments.kills} kills and 2 damages, {lost} wrong")
    finally:
        shutil.rmtree(RUN, ignore_errors=True)
        if not lost:
            (ROOT / "outputs" / f"{RUN.name}.out").unlink(missing_ok=True)
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
