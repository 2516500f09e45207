"""Guess a number: ``ENV_PATH=grpo/environments/number_game.py``.

The row's ``ground_truth`` is the number, so all answers to a row look for the same one. A guess is the last whole
number of an answer; without one, or outside of the range, the turn is lost.
"""

from __future__ import annotations

import re
from typing import Any

LOWEST, HIGHEST = 1, 9
GUESSES = 4  # MAX_TURNS may end the game earlier


class Environment:
    """One game."""

    def reset(self, row: dict[str, Any]) -> str:
        """Take the number of a row; returns what the model reads first."""
        self.number = int(row["reward_model"]["ground_truth"])
        self.left = GUESSES
        return f"Which number from {LOWEST} to {HIGHEST}?"

    def step(self, action: str) -> tuple[str, float, bool, dict[str, Any]]:
        """Compare a guess with the number.

        Returns:
            The hint, 1 for the number and else 0, whether the game is over, and whether it was won.
        """
        self.left -= 1
        said = re.findall(r"\d+", action)
        guess = int(said[-1][:9]) if said else None
        won = guess == self.number
        if guess is None or not LOWEST <= guess <= HIGHEST:
            hint = f"a number from {LOWEST} to {HIGHEST}"
        else:
            hint = "larger" if guess < self.number else "smaller"
        return hint, float(won), won or not self.left, {"success": won}
