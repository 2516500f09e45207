"""A composed config with what was found in it: what the checks of config_checks.py and config_sizes.py write into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.preflight.findings import Finding

RL = "actor_rollout_ref"


@dataclass
class ConfigCheck:
    """A composed config with what was found in it.

    Args:
        config: As Hydra composed it.
        owners: Key of verl -> knob that sets it.
        registered: Key of verl -> names that the user's file adds to verl's own.
        coming: Data files that the launcher puts into the run directory before the trainer starts.
        errors: Stop the launch.
        warnings: Do not.
    """

    config: Any
    owners: Mapping[str, str] = field(default_factory=dict)
    registered: Mapping[str, Sequence[str]] = field(default_factory=dict)
    coming: frozenset[str] = frozenset()
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a dotted key, ``default`` when the config has no such key."""
        from omegaconf import OmegaConf

        return OmegaConf.select(self.config, key, default=default)

    def count(self, key: str, default: int = 0) -> int:
        """A whole number from 0 on; ``default`` where the config has none, or something else, which is an error."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, int) and value >= 0:
            return value
        if all(error.knob != self.name(key) for error in self.errors):
            self.error(key, "must be a whole number from 0 on")
        return default

    def size(self, key: str) -> int:
        """A ``count`` of processes or of parts; 1 where the config has none or 0."""
        return self.count(key, 1) or 1

    def name(self, key: str) -> str:
        """The knob that sets a key, else the key."""
        return self.owners.get(key, key)

    def error(self, key: str, problem: str, fix: str = "") -> None:
        """Note what is wrong with the value of a key, and what to do."""
        self.errors.append(Finding(self.name(key), self.get(key), problem, fix))

    def warn(self, key: str, problem: str, fix: str = "") -> None:
        """Note what to look at in the value of a key, and what to do."""
        self.warnings.append(Finding(self.name(key), self.get(key), problem, fix))
