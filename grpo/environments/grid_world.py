"""A grid world in text, after Gymnasium's: ``ENV_PATH=grpo/environments/grid_world.py``.

``reset`` places player and goal by ``random``, which the kit seeds from the row: all answers to a row start alike. The
reward is 1 at the goal; a step costs a little, so that shorter ways are better.
"""

from __future__ import annotations

import random
import re
from typing import Any

SIZE = 4  # of a side, where the row's extra_info has no size
STEP_COST = 0.02
MOVES = {"north": (0, -1), "south": (0, 1), "west": (-1, 0), "east": (1, 0)}


class Environment:
    """One walk."""

    def reset(self, row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Place player and goal on two cells; returns the first observation and Gymnasium's info."""
        self.size = int((row.get("extra_info") or {}).get("size", SIZE))
        cells = [(x, y) for x in range(self.size) for y in range(self.size)]
        self.player, self.goal = random.sample(cells, 2)
        return self.seen(), {}

    def ways(self) -> dict[str, int]:
        """Steps to the goal by direction."""
        ahead = [there - here for here, there in zip(self.player, self.goal, strict=True)]
        found = {name: move[0] * ahead[0] + move[1] * ahead[1] for name, move in MOVES.items()}
        return {name: steps for name, steps in found.items() if steps > 0}

    def seen(self) -> str:
        """The observation, such as ``goal: 2 east, 1 north``."""
        return "goal: " + (", ".join(f"{steps} {name}" for name, steps in self.ways().items()) or "here")

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Move the player; a wall stops it, and an answer without a direction does nothing.

        Returns:
            Gymnasium's five: observation, reward, terminated, truncated, info.
        """
        said = [word for word in re.findall(r"[a-z]+", action.lower()) if word in MOVES]
        if said:
            moved = [place + by for place, by in zip(self.player, MOVES[said[-1]], strict=True)]
            self.player = tuple(min(self.size - 1, max(0, place)) for place in moved)
        there = self.player == self.goal
        return self.seen(), float(there) - STEP_COST, there, False, {"is_success": there}
