"""What validation says about a run: which step was best, and whether it still gets better."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

LEAST_GAIN = 1e-5  # of the best score, or of 1: less is rounding, as in the mean of a reward model's logits


@dataclass
class Validations:
    """Validation scores of a run, higher is better.

    Args:
        patience: Validations without a better score after which the run should stop; 0: never.
        scores: Step -> score, of earlier attempts too.
        stale: Validations of this attempt since the last better score.
    """

    patience: int = 0
    scores: dict[int, float] = field(default_factory=dict)
    stale: int = 0

    def add(self, step: int, score: float) -> None:
        """Note the score of a step; of one that was scored before (a resume does that) it is replaced."""
        again = step in self.scores
        best = self.best_score
        better = score > (best + LEAST_GAIN * max(1.0, abs(best)) if math.isfinite(best) else best)  # false for NaN
        self.scores[step] = score
        if not again:
            self.stale = 0 if better else self.stale + 1

    @property
    def best_score(self) -> float:
        """The best score so far, minus infinity when there is none."""
        return max((score for score in self.scores.values() if not math.isnan(score)), default=-math.inf)

    def best_of(self, steps: list[int]) -> int | None:
        """Of some steps the one with the best score, the later one of two equals; None when none was validated."""
        scored = [(self.scores[step], step) for step in steps if not math.isnan(self.scores.get(step, math.nan))]
        return max(scored)[1] if scored else None

    def reason_to_stop(self) -> str | None:
        """Why the run should stop now, or None."""
        if not self.patience or self.stale < self.patience:
            return None
        best = self.best_of(list(self.scores))
        where = f"best {self.best_score:.4g} at step {best}" if best is not None else "no score was a number"
        return f"the validation score has not improved for {self.stale} validations ({where})"
