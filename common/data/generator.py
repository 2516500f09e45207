"""Rows that reasoning-gym generates: https://github.com/open-thought/reasoning-gym, an optional package."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.metadata import version
from typing import Any

VERSION = "0.1.25"  # whose scorers were read, see common/rewards/generated.py
INSTALL = "pip install -r requirements/reasoning-gym.txt"


@lru_cache(maxsize=10_000)
def generated(task: str, seed: int, size: int, index: int, config: str) -> tuple[Any, dict[str, Any]]:
    """A task's data set and one of its rows.

    Args:
        task: Name of the task.
        seed: Of the data set.
        size: Rows of the data set; some tasks make other rows in a data set of another size.
        index: Of the row, from 0.
        config: Further settings of the task, as JSON.

    Raises:
        ValueError: If the package or the task is not there.
    """
    dataset = dataset_of(task, seed, size, config)
    return dataset, dataset[index]


@lru_cache(maxsize=256)
def dataset_of(task: str, seed: int, size: int, config: str = "{}") -> Any:
    """A task's data set; arguments as of `generated`."""
    package = gym()
    try:
        return package.create_dataset(task, seed=seed, size=size, **json.loads(config))
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(f"reasoning-gym:{task}: {error}") from error


def gym() -> Any:
    """The package.

    Raises:
        ValueError: If it is not installed, or another version than the one whose scorers were read.
    """
    try:
        import reasoning_gym as package
    except ImportError as error:
        raise ValueError(f"reasoning-gym is not installed ({error}); {INSTALL}") from error
    if (there := version("reasoning-gym")) != VERSION:
        raise ValueError(f"reasoning-gym {there}: the scorers of {VERSION} were checked; {INSTALL}")
    return package
