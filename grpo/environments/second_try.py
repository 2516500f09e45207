"""A question with a second try: ``ENV_PATH=grpo/environments/second_try.py``, on the demo's own sums.

An answer is the whole number behind ``####``. A right one gives 1 at the first try and a half at the second.
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
        said = re.findall(r"####\s*(-?\d{1,18})\b", action)
        right = bool(said) and int(said[-1]) == self.answer
        return "No. Write the number behind ####.", right / self.tried, right or self.tried == TRIES, {"success": right}
