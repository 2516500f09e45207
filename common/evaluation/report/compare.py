"""Two models on the same rows: what got better, what got worse, and whether that can be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from common.evaluation.questions import Question
from common.evaluation.report.results import ModelResults
from common.evaluation.report.significance import holm, mcnemar_exact, sign_flip_test
from common.intervals import mean_interval

SIGNIFICANT = 0.05


@dataclass
class Comparison:
    """The tested model against one other.

    Args:
        model: Name of the tested model.
        other: Name of the model it is compared with.
        pairs: Rows that both have a score for.
        changes: Row -> difference of its value, tested minus other, where it is not 0.
        difference: Mean difference over all pairs.
        low: Lower end of its 95% confidence interval.
        high: Upper end.
        p_value: That a difference of this size comes by chance, corrected for the number of comparisons.
        test: Name of the test.
    """

    model: str
    other: str
    pairs: int
    changes: dict[int, float]
    difference: float
    low: float
    high: float
    p_value: float
    test: str

    @property
    def better(self) -> int:
        """Rows with a higher value."""
        return sum(change > 0 for change in self.changes.values())

    @property
    def worse(self) -> int:
        """Rows with a lower value."""
        return len(self.changes) - self.better

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.pairs:
            return "no row has a score from both"
        if self.p_value >= SIGNIFICANT:
            return "no significant difference"
        return f"significantly {'better' if self.difference > 0 else 'worse'}"


def compare(questions: Sequence[Question], models: Sequence[ModelResults], n: int, binary: bool) -> list[Comparison]:
    """Compare the first model with each of the others.

    Right or wrong answers, one a prompt: McNemar's exact test. Else a permutation test of the rows' means.

    Args:
        questions: The rows.
        models: The tested model, then those it is compared with.
        n: Answers to each prompt.
        binary: Whether answers are right or wrong.
    """
    found = [_pair(questions, models[0], other, n, binary) for other in models[1:]]
    for comparison, p_value in zip(found, holm([comparison.p_value for comparison in found]), strict=True):
        comparison.p_value = p_value
    return found


def _pair(questions: Sequence[Question], model: ModelResults, other: ModelResults, n: int, binary: bool) -> Comparison:
    differences = {}
    for question in questions:
        mine, its = row_value(model, question.row, n), row_value(other, question.row, n)
        if mine is not None and its is not None:
            differences[question.row] = mine - its
    changes = {row: change for row, change in differences.items() if change}
    values = list(differences.values())
    comparison = Comparison(model.name, other.name, len(values), changes, 0.0, 0.0, 0.0, 1.0, "McNemar, exact")
    if not values:
        return comparison
    comparison.difference = mean(values)
    comparison.low, comparison.high = mean_interval(values)
    if binary:  # shares differ by 1 at most
        comparison.low, comparison.high = max(-1.0, comparison.low), min(1.0, comparison.high)
    if binary and n == 1:
        comparison.p_value = mcnemar_exact(comparison.better, comparison.worse)
    else:
        comparison.test = "paired permutation"
        comparison.p_value = sign_flip_test(values)
    return comparison


def row_value(results: ModelResults, row: int, n: int) -> float | None:
    """Mean value of the answers to a row, None without a score."""
    values = [value for sample in range(n) if (value := results.value((row, sample))) is not None]
    return mean(values) if values else None
