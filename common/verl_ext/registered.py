"""``python -m common.verl_ext.registered FILE``: what a file registers with verl, as JSON, in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LIMIT_S = 120.0  # importing verl takes about 10 s


def registered(path: Path) -> dict[str, list[str]]:
    """Find out what a file registers.

    Args:
        path: The file of ``ALGORITHM_PATH``.

    Returns:
        ``estimators`` and ``losses``: names, those that verl has not had before.

    Raises:
        ValueError: If the file cannot be imported, with its error.
    """
    return answer_of("common.verl_ext.registered", path)


def answer_of(module: str, path: Path) -> Any:
    """Run a module on a user-supplied file, which may hang or crash, and return the JSON that it prints.

    Args:
        module: Module that takes the file as its argument.
        path: The file.

    Raises:
        ValueError: If it fails or takes longer than ``LIMIT_S``, with the last line of its error.
    """
    command = [sys.executable, "-m", module, str(path)]
    loaders = ("VERL_USE_EXTERNAL_MODULES", "VERL_EXT", "ALGORITHM_PATH")  # would register before anybody looks
    environment = {name: value for name, value in os.environ.items() if name not in loaders}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"importing it took longer than {LIMIT_S:g} s") from None
    last = done.stdout.strip().splitlines()[-1:]
    if done.returncode or not last:
        raise ValueError((done.stderr.strip().splitlines() or ["it ended without output"])[-1])
    return json.loads(last[0])


def main() -> int:
    """Print the names that the file registers."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    from common.verl_ext.user import load

    before = set(ADV_ESTIMATOR_REGISTRY), dict(POLICY_LOSS_REGISTRY)
    load(Path(sys.argv[1]))
    estimators = sorted(set(ADV_ESTIMATOR_REGISTRY) - before[0])
    losses = sorted(name for name, loss in POLICY_LOSS_REGISTRY.items() if before[1].get(name) is not loss)
    print(json.dumps({"estimators": estimators, "losses": losses}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
