"""Makes verl-<version>.log here: the same steps printed by the console logger of each verl release.

Usage: python make_logs.py FOLDER   (FOLDER holds verl-<version>-….whl, from `pip download --no-deps verl==<version>`)

Every release runs in a separate process, from the aggregate_logger.py of its wheel; `expected.json` holds what was
logged. Needs numpy and torch, which that file imports.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
LOGGER = "verl/utils/logger/aggregate_logger.py"
# what one release runs; the data is made in the same process, as numpy and Python numbers print differently
PROGRAM = """
import importlib.util, sys
sys.path.insert(0, sys.argv[2])
from make_logs import steps
spec = importlib.util.spec_from_file_location("aggregate_logger", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
logger = module.LocalLogger(print_to_console=True)
for step, data in steps():
    logger.log(data, step)
"""


def steps():
    """Returns the steps that are logged: the kinds of values that verl's trainers hand to their loggers."""
    import numpy as np

    yield 0, {"val-core/openai/gsm8k/acc/mean@1": np.float64(0.125), "val-aux/num_turns/min": np.int32(2)}
    for step in range(1, 7):
        yield (
            step,
            {
                "actor/entropy": 1.0 / step,
                "actor/pg_loss": np.float64(-0.01 * step),
                "actor/kl_loss": np.float32(0.5) / step,
                "actor/grad_norm": math.nan if step == 3 else 0.25 * step,
                "actor/lr": 1e-06,
                "critic/score/mean": np.float64(0.5),
                "critic/score/max": np.float32(1.0),
                "critic/advantages/min": -math.inf if step == 4 else -1.5,
                "training/global_step": step,
                "training/epoch": 0,
                "response_length/mean": np.float64(211.375),
                "num_turns/max": np.int64(step),
                "timing_s/gen": 1.5e-05 * step,
                "perf/throughput": 1234567.5,
                "some/text": "left out by verl",
            },
        )


def main() -> None:
    """Prints with every wheel in the folder, and writes what was logged."""
    for wheel in sorted(Path(sys.argv[1]).glob("verl-*.whl")):
        version = re.match(r"verl-([\d.]+\d)", wheel.name).group(1)
        with zipfile.ZipFile(wheel) as archive:
            source = Path(sys.argv[1]) / f"aggregate_logger_{version}.py"
            source.write_bytes(archive.read(LOGGER))
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(source), str(HERE)], capture_output=True, text=True, check=True
        )
        (HERE / f"verl-{version}.log").write_text(done.stdout)
    expected = [[step, {k: str(float(v)) for k, v in data.items() if k != "some/text"}] for step, data in steps()]
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
