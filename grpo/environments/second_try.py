"""A question with a second try: ``ENV_PATH=grpo/environments/second_try.py``, on the demo's own sums.

The last whole number of an answer counts. A right one gives 1 at the first try and a half at the second.
"""

from __future__ import annotations

import re
from typing import Any

TRIES = 2  # MAX_TURNS may end the episode earlier


class Environment:
    """One question."""

    def reset(self, row: dict[str, Any]) -> None:
        """Take the answer of a row, whose prompt is the question; nothing follows it."""
        self.answer = int(row["reward_model"]["ground_truth"])
        self.tried = 0

    def step(self, action: str) -> tuple[str, float, bool, dict[str, Any]]:
        """Compare an answer with the row's.

        Returns:
            What is said to a wrong one, the reward, whether the episode is over, and whether it was solved.
        """
        self.tried += 1
        said = re.findall(r"-?\d+", action)
        right = bool(said) and len(said[-1]) < 19 and int(said[-1]) == self.answer
        return "No, try again.", right / self.tried, right or self.tried == TRIES, {"success": right}
