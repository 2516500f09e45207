"""verl's own validation of a config, in a separate process: importing verl takes seconds, which pass meanwhile."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from typing import Any

from common.verl_ext.table import problems

LIMIT_S = 180  # for importing verl on a slow disk


class VerlCheck:
    """verl's validation, started before the config is known."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "common.preflight.verl_check"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "VERL_LOGGING_LEVEL": "ERROR"},
        )

    def finish(self, config: Any, model_config: dict[str, Any]) -> list[str]:
        """Give it the composed config; returns what verl does not accept.

        Raises:
            TimeoutError: If it did not end in time, as on a busy host or a slow disk.
        """
        from omegaconf import OmegaConf

        asked = json.dumps({"config": OmegaConf.to_yaml(config, resolve=True), "model": model_config})
        try:
            answer, _ = self.process.communicate(asked, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            self.cancel()
            raise TimeoutError(f"verl's own validation did not end within {LIMIT_S} s") from None
        lines = answer.strip().splitlines()
        if self.process.returncode or not lines:
            return ["verl cannot be imported; run ./setup_env.sh, and .venv/bin/python -c 'import verl' shows why"]
        return json.loads(lines[-1])

    def cancel(self) -> None:
        """End it, where other errors prevent the launch already."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def validate(config: Any, model_config: dict[str, Any]) -> list[str]:
    """Errors of verl for a composed config: `validate_config` and the dataclasses that its workers make.

    Args:
        config: Of an RL or an SFT run.
        model_config: config.json of the model, empty when not known.
    """
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    errors = []
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if "actor_rollout_ref" in config:
                from verl.trainer.ppo.utils import need_critic, need_reference_policy

                validate_config(config, need_reference_policy(config), need_critic(config))
                omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
            else:
                for part in ("engine", "optim", "checkpoint"):
                    omega_conf_to_dataclass(config[part])
    except Exception as error:  # verl raises whatever is at hand: AssertionError, ValueError, Hydra's own
        said = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        errors.append(f"verl's own validation: {said[0]}")
    return errors + problems() + _architecture(model_config)


def _architecture(model_config: dict[str, Any]) -> list[str]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = model_config.get("model_type")
    if not kind or kind in CONFIG_MAPPING_NAMES or "auto_map" in model_config:
        return []
    import transformers

    return [f"MODEL_PATH: transformers {transformers.__version__} does not know the architecture {kind}; use another"]


def main() -> None:
    """Read a config from standard input, write a JSON list of errors as the last line of standard output."""
    import verl.trainer.ppo.utils
    import verl.utils.config  # noqa: F401  loaded while the parent still reads data
    from omegaconf import OmegaConf

    asked = json.loads(sys.stdin.read())
    print("\n" + json.dumps(validate(OmegaConf.create(asked["config"]), asked["model"])))


if __name__ == "__main__":
    main()
