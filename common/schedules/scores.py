"""Validation scores on their way from the trainer to the processes with the optimizer: ``plateau.json`` of the run.

The trainer writes a score before it begins the next step, so every process finds the same ones at its next update. A
resumed run begins with those up to its checkpoint, as the run that was not interrupted had them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.files import write_atomically
from common.metrics.names import HEADLINES, friendly
from common.run_dir import read_metrics

FILE = "plateau.json"
MEASURES = tuple(metric for metric in HEADLINES if metric.validates)


def score_of(data: Mapping[str, Any]) -> float | None:
    """What a validation came to, higher is better; None where the step was not validated, or the score is NaN."""
    values = friendly(dict(data))
    for metric in MEASURES:
        value = values.get(metric.name)
        if value is not None:
            return (-value if metric.better == "lower" else value) if math.isfinite(value) else None
    return None


def read_scores(run_dir: Path) -> dict[int, float]:
    """Step -> score, of this attempt and of those before it up to its checkpoint."""
    path = run_dir / FILE
    if not path.is_file():
        return {}
    return {int(step): score for step, score in json.loads(path.read_text(encoding="utf-8")).items()}


class Scores:
    """Writes the scores; `log` and `finish` are those of a logger of verl.

    Args:
        run_dir: Folder of the run.
        resumed: Step of the checkpoint that the attempt goes on from, 0 for none.
        test_freq: ``TEST_FREQ``.
    """

    def __init__(self, run_dir: Path, resumed: int, test_freq: int):
        self.run_dir, self.resumed, self.test_freq = run_dir, resumed, test_freq
        earlier = ((record["step"], score_of(record["data"])) for record in read_metrics(run_dir) if resumed)
        self.scores = {step: score for step, score in earlier if score is not None and step <= resumed}
        self._write()

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Keep the score of a step that was validated.

        A resumed RL run validates before it trains. Where the run before would not have, that counts no more than it
        would have: not at all.
        """
        score = score_of(data)
        extra = step == self.resumed and step > 0 and step not in self.scores and step % max(1, self.test_freq) != 0
        if score is not None and not extra:
            self.scores[step] = score
            self._write()

    def finish(self) -> None:
        """Nothing is left to be done."""

    def _write(self) -> None:
        write_atomically(self.run_dir / FILE, json.dumps(self.scores) + "\n")
