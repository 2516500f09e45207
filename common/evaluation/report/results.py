"""The answers of one model with their scores, and what they come to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from common.answers import final_answer
from common.answers.words import normalize
from common.evaluation.engines.engine import Answer
from common.evaluation.partial import Key
from common.evaluation.questions import Question
from common.evaluation.report.significance import ks_of, majority, pass_at_k
from common.intervals import mean_interval, wilson_interval

LONGEST_VOTE = 2_000  # characters at the end of an answer in which the final one is looked for


@dataclass
class ModelResults:
    """What one model did.

    Args:
        name: For tables and columns, different for each model of a comparison.
        given: What the user wrote for it.
        path: What was loaded.
        engine: Name and version.
        answers: By row and sample.
        scores: ``{score, parts}`` or ``{error}`` by row and sample; none for rows without a reward.
        tokens: Tokens generated in this process (not those of an interrupted one before).
        seconds: Time that took.
    """

    name: str
    given: str
    path: str
    engine: str
    answers: dict[Key, Answer] = field(default_factory=dict)
    scores: dict[Key, dict[str, Any]] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0

    def value(self, key: Key) -> float | None:
        """What counts of an answer: ``acc`` where the reward gives it, else ``score``; as verl's validation."""
        result = self.scores.get(key)
        if result is None or "error" in result:
            return None
        acc = result["parts"].get("acc")
        return acc if isinstance(acc, float) else result["score"]

    @property
    def is_binary(self) -> bool:
        """Whether every answer is right or wrong, with nothing between."""
        return all(self.value(key) in (0.0, 1.0, None) for key in self.scores)


@dataclass
class GroupScore:
    """One line of the summary.

    Args:
        name: Of the group.
        rows: Rows in it.
        asked: Rows with at least one answer.
        scored: Rows with a score.
        accuracy: Mean over rows of the mean over their answers; None when nothing is scored.
        low: Lower end of its 95% confidence interval.
        high: Upper end.
        score: Mean of the rewards' ``score``, which training sees.
        pass_at: k -> pass@k, for several answers that are right or wrong.
        majority: Accuracy of the majority vote, or None.
        length: Mean tokens of an answer.
        cut: Share of answers that ended at ``max_new_tokens``.
        failed: Answers that could not be had or scored.
    """

    name: str
    rows: int
    asked: int
    scored: int
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    score: float | None = None
    pass_at: dict[int, float] = field(default_factory=dict)
    majority: float | None = None
    length: float = 0.0
    cut: float = 0.0
    failed: int = 0


def score_group(name: str, questions: Sequence[Question], results: ModelResults, n: int, binary: bool) -> GroupScore:
    """Sum up some rows.

    Args:
        name: Of the group.
        questions: Its rows.
        results: All of a model.
        n: Answers to each prompt.
        binary: Whether answers are right or wrong.
    """
    answers: list[Answer] = []
    values: list[list[float]] = []
    votes: list[float] = []
    scores: list[float] = []
    asked = 0
    for question in questions:
        keys = [(question.row, sample) for sample in range(n)]
        mine = [results.answers[key] for key in keys if key in results.answers]
        answers += mine
        asked += any(answer.error is None for answer in mine)
        known = [(key, value) for key in keys if (value := results.value(key)) is not None]
        if known:
            values.append([value for _, value in known])
            scores += [results.scores[key]["score"] for key, _ in known]
            if n > 1:
                votes.append(majority([vote(results.answers[key].text) for key, _ in known], values[-1]))
    group = GroupScore(name, len(questions), asked, len(values))
    given = [answer for answer in answers if answer.error is None]
    group.failed = (
        len(answers)
        - len(given)
        + sum("error" in results.scores.get((answer.row, answer.sample), ()) for answer in given)
    )
    if given:
        group.length = mean(answer.tokens for answer in given)
        group.cut = mean(answer.finish == "length" for answer in given)
    if values:
        _fill_scores(group, values, votes, scores, n, binary)
    return group


def _fill_scores(
    group: GroupScore, values: list[list[float]], votes: list[float], scores: list[float], n: int, binary: bool
) -> None:
    means = [mean(row) for row in values]
    group.accuracy, group.score = mean(means), mean(scores)
    if n == 1 and binary:
        group.low, group.high = wilson_interval(round(sum(means)), len(means))
    else:
        group.low, group.high = mean_interval(means)
        if binary:
            group.low, group.high = max(0.0, group.low), min(1.0, group.high)
    if n > 1:
        group.majority = mean(votes)
        if binary:
            whole = [row for row in values if len(row) == n]
            for k in ks_of(n) if whole else ():
                group.pass_at[k] = mean(pass_at_k(n, round(sum(row)), k) for row in whole)


def vote(text: str) -> str:
    """What an answer says in the end, so that equal ones can be counted."""
    answer = final_answer(text[-LONGEST_VOTE:])
    return normalize(answer) or answer


def groups_of(questions: Sequence[Question]) -> dict[str, dict[str, list[Question]]]:
    """Column -> value -> rows, for the columns ``data_source`` and ``ability`` where they tell rows apart."""
    found: dict[str, dict[str, list[Question]]] = {}
    for column in ("data_source", "ability"):
        parts: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            parts[getattr(question, column) or "(none)"].append(question)
        if set(parts) != {"(none)"}:
            found[column] = dict(sorted(parts.items(), key=lambda part: (-len(part[1]), part[0])))
    return found
