"""Data of the demo of environments, the grid world of ``grpo/environments/grid_world.py``.

    python -m grpo.environments.make_data --out outputs/grid-data

``sft.*.parquet`` teaches the form of a walk; two steps in three go anywhere, so that what an observation means is
left to learn from the reward. ``rl.*.parquet`` holds prompts alone: the environment places player and goal.
"""

from __future__ import annotations

import random
from typing import Any

from common.data.samples import write_samples
from grpo.environments.grid_world import MOVES, Environment

SEED = 8
TURNS = 6  # of a walk in the SFT data
SFT_ROWS, RL_ROWS, VAL_ROWS = 3072, 1024, 96
RL_SIZE = 2  # of a side; a small grid gives every group of answers some that succeed
CARELESS = 2 / 3  # share of the steps that ignore the observation
PROMPT = {"role": "user", "content": f"Go to the goal: {', '.join(MOVES)}."}


def rl_row(index: int, split: str) -> dict[str, Any]:
    """A prompt; its index makes the start differ from that of the others."""
    return {
        "data_source": "demo/grid_world",
        "prompt": [PROMPT],
        "ability": "game",
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {"index": index, "split": split, "size": RL_SIZE},
    }


def walk(rng: random.Random) -> dict[str, Any]:
    """A walk as a conversation."""
    random.seed(rng.random())
    environment = Environment()
    first, _ = environment.reset({})
    messages = [{"role": "user", "content": f"{PROMPT['content']}\n{first}"}]
    for _ in range(TURNS):
        move = rng.choice(list(MOVES if rng.random() < CARELESS else environment.ways()))
        messages.append({"role": "assistant", "content": move})
        seen, _, done, _, _ = environment.step(move)
        if done:
            break
        messages.append({"role": "user", "content": seen})
    return {"messages": messages if messages[-1]["role"] == "assistant" else messages[:-1]}


def make_files() -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of all four files by name."""
    rng = random.Random(SEED)
    files: dict[str, list[dict[str, Any]]] = {}
    for split, rows in (("train", SFT_ROWS), ("val", VAL_ROWS)):
        files[f"sft.{split}"] = [walk(rng) for _ in range(rows)]
    for split, rows in (("train", RL_ROWS), ("val", VAL_ROWS)):
        files[f"rl.{split}"] = [rl_row(index, split) for index in range(rows)]
    return files


if __name__ == "__main__":
    write_samples("Write the data of the demo of environments.", make_files)
