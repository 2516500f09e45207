"""Where the algorithms are: an algorithm has the name of its folder, but those that are a part of another."""

from __future__ import annotations

FOLDERS = {"reward_model": "ppo/reward_model"}


def folder_of(algorithm: str) -> str:
    """The folder of an algorithm's train.sh, from the root of the kit."""
    return FOLDERS.get(algorithm, algorithm)
