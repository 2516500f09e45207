"""The command that a train.sh will run, made by the train.sh itself, and the config that verl composes from it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common.preflight.derived import CONFIG, names
from common.preflight.knobs import Knobs, script_of
from common.preflight.resolved import process_environment, write_resolved


def launch_command(knobs: Knobs, run_dir: Path) -> list[str]:
    """Have the train.sh print its command instead of running it.

    Args:
        knobs: Resolved.
        run_dir: Of the run.

    Raises:
        RuntimeError: If the script fails, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder) / "resolved"
        write_resolved(resolved, knobs, run_dir)
        environment = {**os.environ, "RESOLVED_KNOBS": str(resolved), "DRY_RUN": "1", "PYTHON": sys.executable}
        script = script_of(knobs.algorithm)
        done = subprocess.run(
            ["bash", str(script), *knobs.arguments], env=environment, capture_output=True, text=True, timeout=60
        )
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.split("\0")[:-1]


def compose(knobs: Knobs, run_dir: Path) -> Any:
    """The composed config of a launch, None when it cannot be composed (the reason is among the errors)."""
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationResolutionError

    from common.preflight.compose import ConfigError, compose_command

    read = {"RUN_DIR": str(run_dir), **process_environment(knobs)}
    read = {name: value for name, value in read.items() if name in names(CONFIG)}
    before = {name: os.environ.get(name) for name in read}
    os.environ.update(read)
    try:
        config = compose_command(launch_command(knobs, run_dir))
        OmegaConf.to_container(config, resolve=True)
        _resolve(config)
        return config
    except ConfigError as error:
        knobs.error("", str(error))
    except InterpolationResolutionError as error:
        reason = str(error).splitlines()[0]
        knobs.error("", f"{error.full_key}: {reason}", "name a key of the config there, or remove it")
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return None


def _resolve(config: Any) -> None:
    """Fix what comes from the environment while it is set as the run will have it; all else stays lazy."""
    from omegaconf import DictConfig

    for key in list(config) if isinstance(config, DictConfig) and not config._is_none() else ():
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_interpolation():
            _resolve(node)
        elif "${oc.env:" in str(node._value()):
            config[key] = config[key]
