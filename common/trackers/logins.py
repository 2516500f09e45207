"""Which trackers there are, and whether one would stop a run to ask for a key."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.wandb_login import wandb_login


@dataclass(frozen=True)
class Service:
    """A tracker of verl's.

    Args:
        name: In ``TRACKERS``, as verl calls it.
        package: Python package that it needs.
        login: Says where a key was found, or that none is needed; None when there is none.
        fix: What a person does to have one.
        auto: Whether ``TRACKERS=auto`` takes it when there is a login.
    """

    name: str
    package: str
    login: Callable[[Mapping[str, str]], str | None]
    fix: str = ""
    auto: bool = True

    @property
    def is_installed(self) -> bool:
        """Whether its package is there."""
        return importlib.util.find_spec(self.package) is not None


def _wandb(environment: Mapping[str, str]) -> str | None:
    offline = environment.get("WANDB_MODE") in ("offline", "disabled", "dryrun")
    return f"WANDB_MODE={environment['WANDB_MODE']}" if offline else wandb_login()


def _swanlab(environment: Mapping[str, str]) -> str | None:
    if environment.get("SWANLAB_MODE") in ("offline", "local", "disabled"):
        return f"SWANLAB_MODE={environment['SWANLAB_MODE']}"
    if environment.get("SWANLAB_API_KEY"):
        return "SWANLAB_API_KEY is set"
    folder = environment.get("SWANLAB_ROOT") or environment.get("SWANLAB_SAVE_DIR") or "~/.swanlab"
    return "you are logged in" if (Path(folder).expanduser() / ".netrc").is_file() else None


def _mlflow(environment: Mapping[str, str]) -> str | None:
    return "MLFLOW_TRACKING_URI is set" if environment.get("MLFLOW_TRACKING_URI") else None


def _clearml(environment: Mapping[str, str]) -> str | None:
    if environment.get("CLEARML_OFFLINE_MODE") == "1":
        return "CLEARML_OFFLINE_MODE=1"
    if environment.get("CLEARML_API_ACCESS_KEY"):
        return "CLEARML_API_ACCESS_KEY is set"
    file = Path(environment.get("CLEARML_CONFIG_FILE") or "~/clearml.conf").expanduser()
    return f"{file.name} is there" if file.is_file() else None


def _local(environment: Mapping[str, str]) -> str | None:
    return "needs no login"


SERVICES = {
    service.name: service
    for service in (
        Service(
            "wandb",
            "wandb",
            _wandb,
            "run wandb login, export WANDB_API_KEY, or set WANDB_MODE=offline",
            auto=False,  # USE_WANDB says it
        ),
        Service(
            "swanlab", "swanlab", _swanlab, "run swanlab login, export SWANLAB_API_KEY, or set SWANLAB_MODE=offline"
        ),
        Service("mlflow", "mlflow", _mlflow),  # without an address: a database next to the runs
        Service("trackio", "trackio", _local, auto=False),
        Service(
            "clearml",
            "clearml",
            _clearml,
            "run clearml-init, export CLEARML_API_ACCESS_KEY, or set CLEARML_OFFLINE_MODE=1",
        ),
        # Left to verl as they are: names and steps are its own.
        Service("vemlp_wandb", "volcengine_ml_platform", _local, auto=False),
        Service("rl_insight", "rl_insight", _local, auto=False),
    )
}


def problem_of(name: str, environment: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """What keeps a tracker from being used, and what to do; None when it can be used without a question."""
    service = SERVICES[name]
    if not service.is_installed:
        return f"the package {service.package} is not installed", f"pip install {service.package}, or leave {name} out"
    if service.fix and not service.login(os.environ if environment is None else environment):
        return f"you are not logged in to {name}", service.fix
    return None


def found(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The trackers that ``auto`` takes, and why: installed, and with a login."""
    # Not a default value: datasets puts another object into os.environ when it maps with processes.
    environment = os.environ if environment is None else environment
    reasons = {name: service.login(environment) for name, service in SERVICES.items() if service.auto}
    return {name: why for name, why in reasons.items() if why and SERVICES[name].is_installed}
