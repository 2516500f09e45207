"""Compose the Hydra config that a command will use, so that a wrong key shows before anything is started.

verl's own config directory is found without importing verl, which takes seconds.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

VERL_CONFIG = "pkg://verl.trainer.config"


class ConfigError(ValueError):
    """A key or a value that the trainer's config does not take."""


def compose_command(command: Sequence[str]):
    """Compose the config of a command line.

    Args:
        command: A command with ``--config-path=…``, ``--config-name=…`` and Hydra overrides.

    Returns:
        The composed ``DictConfig``.

    Raises:
        ConfigError: If an override does not fit; the message names the key and the nearest that exists.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    path, name = _option(command, "config-path"), _option(command, "config-name")
    overrides = after_options(command)
    search = ["file://" + str(_verl_config_dir())] + list(_kit_search_path(Path(path) / f"{name}.yaml"))
    overrides.append(f"hydra.searchpath=[{','.join(_quoted(entry) for entry in search)}]")
    try:
        with initialize_config_dir(config_dir=path, version_base=None):
            return compose(config_name=name, overrides=overrides)
    except OverrideParseException as error:
        raise ConfigError(
            f"{error.override}: Hydra cannot read this; put a value with special characters in quotes, "
            "e.g. \"key='a, b'\""
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(str(error), path, name, search)) from error


def after_options(command: Sequence[str]) -> list[str]:
    """The Hydra overrides of a command: what follows the option that names the config."""
    last = max(index for index, argument in enumerate(command) if argument.startswith("--config-"))
    return list(command[last + 1 :])


def explain(message: str, path: str, name: str, search: Sequence[str]) -> str:
    """Shorten Hydra's message and add the nearest existing key."""
    first = next((line for line in message.splitlines() if line.strip()), message)
    wrong = re.search(r"[Kk]ey '([\w.]+)' (?:is )?not in|override '\+*([\w.@/]+)'", message)
    full = re.search(r"full_key: ([\w.]+)", message)
    key = full.group(1) if full else next((group for group in wrong.groups() if group), "") if wrong else ""
    if not key:
        return first
    near = difflib.get_close_matches(key, known_keys(path, name, search), n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{key}: not a key of verl's config{hint} ({first.strip()})"


def known_keys(path: str, name: str, search: Sequence[str]) -> list[str]:
    """Every dotted key of the config that a folder's config.yaml extends."""
    from hydra import compose, initialize_config_dir

    override = f"hydra.searchpath=[{','.join(_quoted(entry) for entry in search)}]"
    with initialize_config_dir(config_dir=path, version_base=None):
        return list(_keys(compose(config_name=name, overrides=[override])))


def _keys(node, prefix: str = "") -> Iterator[str]:
    from omegaconf import DictConfig

    for key in node:
        dotted = f"{prefix}{key}"
        yield dotted
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_missing() and not child._is_none():
            if not child._is_interpolation():
                yield from _keys(child, f"{dotted}.")


def _option(command: Sequence[str], option: str) -> str:
    prefix = f"--{option}="
    return next(argument[len(prefix) :] for argument in command if argument.startswith(prefix))


def _verl_config_dir() -> Path:
    spec = importlib.util.find_spec("verl")
    if spec is None:
        raise ConfigError("verl is not installed in this environment; run ./setup_env.sh")
    return Path(spec.origin).parent / "trainer" / "config"


def _kit_search_path(config: Path) -> Iterator[str]:
    """The config's own search path but verl's, with packages of the kit as directories."""
    import yaml

    root = Path(__file__).resolve().parents[2]
    for entry in yaml.safe_load(config.read_text(encoding="utf-8"))["hydra"]["searchpath"]:
        if entry != VERL_CONFIG:
            yield "file://" + str(root / entry.removeprefix("pkg://").replace(".", "/"))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"
