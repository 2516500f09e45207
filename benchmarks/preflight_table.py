"""Every bad and good launch of the preflight's table, each started as a person starts it; with the time it took.

    .venv/bin/python benchmarks/preflight_table.py                  # all, about 10 minutes on 2 cores
    .venv/bin/python benchmarks/preflight_table.py --every 10       # each tenth

Bad ones must be stopped with the right words within 15 s, good ones must pass, with verl's own validation.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
LIMIT_S = 15.0


def launch(row, folder: Path) -> tuple[int, str, float]:
    """Run the preflight of a row; returns its exit status, what it said, and the seconds."""
    knobs = {name: value.replace("{tmp}", str(folder)) for name, value in row.knobs.items()}
    environment = {name: value for name, value in os.environ.items() if name not in ("WANDB_API_KEY", "WANDB_MODE")}
    environment |= {"NETRC": str(folder / "netrc"), "CALLER_DIR": str(folder), "OUTPUTS_DIR": str(folder / "outputs")}
    gpus = ["--gpus", row.gpus] if row.gpus else []
    resolved = str(folder / "resolved")
    command = [
        sys.executable,
        "-m",
        "common.preflight",
        row.algorithm,
        *gpus,
        "--resolved",
        resolved,
        "--",
        *row.arguments,
    ]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment | knobs, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr, time.perf_counter() - started


def main() -> int:
    """Print a line a row; exit status 1 when one is wrong."""
    from tests.preflight_table import BAD, GOOD, make_files

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="only each k-th row")
    every, wrong, slowest = parser.parse_args().every, 0, 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder)
        for kind, rows in (("bad", BAD), ("good", GOOD)):
            for title in list(rows)[::every]:
                status, said, seconds = launch(rows[title], folder)
                errors = [line for line in said.splitlines() if line.startswith("error:")]
                hit = any(all(word in line for word in rows[title].words) for line in errors)
                held = (status == 2 and hit and seconds < LIMIT_S) if kind == "bad" else status == 0
                wrong += not held
                slowest = max(slowest, seconds) if kind == "bad" else slowest
                print(f"{kind:4} {seconds:5.1f} s {'' if held else 'WRONG '}{title}", flush=True)
                if not held:
                    print("\n".join(errors[:3]))
    print(f"{wrong} wrong; the slowest bad one took {slowest:.1f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
