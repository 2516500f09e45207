"""All that an evaluation found, as one object from which every output is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from common.evaluation.questions import Question
from common.evaluation.report.compare import Comparison, compare, row_value
from common.evaluation.report.results import GroupScore, ModelResults, groups_of, score_group

TEXT, NUMBER, VERDICT = "text", "number", "verdict"
RIGHT, WRONG = "right", "wrong"
BETTER, WORSE, SAME = "better", "worse", "same"


@dataclass(frozen=True)
class Column:
    """A column of the results.

    Args:
        name: Its heading.
        kind: ``text``, ``number`` or ``verdict`` (right or wrong, better or worse).
        wide: Whether it holds long texts.
    """

    name: str
    kind: str = TEXT
    wide: bool = False


@dataclass
class ModelSummary:
    """What one model came to.

    Args:
        name: Of the model.
        overall: Over all rows.
        groups: Column -> one entry per value, where there are groups.
    """

    name: str
    overall: GroupScore
    groups: dict[str, list[GroupScore]] = field(default_factory=dict)


@dataclass
class Report:
    """An evaluation.

    Args:
        questions: The rows.
        models: The tested model, then those it is compared with.
        n: Answers to each prompt.
        settings: Name -> value, for people: model, file, reward, sampling, date, versions.
        notes: What a reader should know, e.g. rows that could not be used.
    """

    questions: Sequence[Question]
    models: list[ModelResults]
    n: int
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.binary = all(model.is_binary for model in self.models)
        self.scored = any(model.scores for model in self.models)
        groups = groups_of(self.questions)
        self.summaries = [
            ModelSummary(
                model.name,
                score_group("all", self.questions, model, self.n, self.binary),
                {
                    column: [score_group(name, rows, model, self.n, self.binary) for name, rows in parts.items()]
                    for column, parts in groups.items()
                },
            )
            for model in self.models
        ]
        self.comparisons: list[Comparison] = compare(self.questions, self.models, self.n, self.binary)

    def columns(self) -> list[Column]:
        """The columns of the results."""
        questions, several = self.questions, len(self.models) > 1
        found = [Column("id")]
        found += [Column("sample", NUMBER)] if self.n > 1 else []
        found += [Column(name) for name in ("data_source", "ability") if any(getattr(q, name) for q in questions)]
        found.append(Column("prompt", wide=True))
        found += [Column("ground_truth")] if any(q.ground_truth is not None for q in questions) else []
        found += [Column("reference", wide=True)] if any(q.reference and _worked(q) for q in questions) else []
        for model in self.models:
            found.append(Column(_heading("response", model, several), wide=True))
            if model.scores:
                found += [Column(_heading("result", model, several), VERDICT)] if self.binary else []
                found.append(Column(_heading("score", model, several), NUMBER))
        found += [Column(_heading("against", other, True), VERDICT) for other in self.models[1:] if self.scored]
        found += [Column(name, NUMBER) for name in self._parts()]
        found += [Column(_heading("tokens", model, several), NUMBER) for model in self.models]
        found += [Column(_heading("finish", model, several)) for model in self.models]
        found += [Column("error")] if self._has_errors() else []
        taken = {column.name for column in found}
        return found + [Column(f"input.{name}" if name in taken else name) for name in self._kept()]

    def _parts(self) -> list[str]:
        """Names of what the reward gives next to its score, when there is one model."""
        if len(self.models) > 1:
            return []
        names: dict[str, None] = {}
        for result in self.models[0].scores.values():
            names.update(dict.fromkeys(result.get("parts", ())))
        if self.binary:
            names.pop("acc", None)  # the verdict says the same
        return [f"reward.{name}" for name in names]

    def _kept(self) -> list[str]:
        names: dict[str, None] = {}
        for question in self.questions:
            names.update(dict.fromkeys(question.columns))
        return list(names)

    def _has_errors(self) -> bool:
        return (
            any(q.problem for q in self.questions)
            or any(answer.error for model in self.models for answer in model.answers.values())
            or any("error" in result for model in self.models for result in model.scores.values())
        )

    def rows(self) -> Iterator[list[Any]]:
        """The rows of the results: one an answer, in the order of the input."""
        names = [column.name for column in self.columns()]
        has = set(names)
        parts, kept = [name.removeprefix("reward.") for name in self._parts()], self._kept()
        for question in self.questions:
            against = [_change(self, other, question.row) for other in self.models[1:]] if self.scored else []
            for sample in range(self.n):
                yield self._row(question, sample, has, against, parts, kept)

    def _row(
        self, question: Question, sample: int, has: set[str], against: list[Any], parts: list[str], kept: list[str]
    ) -> list[Any]:
        key = question.row, sample
        row: list[Any] = [question.id]
        row += [sample + 1] if self.n > 1 else []
        row += [getattr(question, name) for name in ("data_source", "ability") if name in has]
        row.append(question.prompt)
        row += [question.ground_truth] if "ground_truth" in has else []
        row += [question.reference] if "reference" in has else []
        errors = [question.problem] if question.problem else []
        tail: list[list[Any]] = [[], []]
        for model in self.models:
            answer, result = model.answers.get(key), model.scores.get(key, {})
            row.append(answer.text if answer and answer.error is None else None)
            if model.scores:
                value = model.value(key)
                row += [None if value is None else RIGHT if value else WRONG] if self.binary else []
                row.append(result.get("score"))
            tail[0].append(answer.tokens if answer and answer.error is None else None)
            tail[1].append(answer.finish if answer else None)
            errors += [answer.error] if answer and answer.error else []
            errors += [f"reward: {result['error']}"] if "error" in result else []
        row += against
        first = self.models[0].scores.get(key, {}).get("parts", {})
        row += [first.get(name) for name in parts]
        row += tail[0] + tail[1]
        row += ["; ".join(dict.fromkeys(errors)) or None] if "error" in has else []
        return row + [question.columns.get(name) for name in kept]

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain values."""
        return {
            "settings": self.settings,
            "models": [
                {
                    **_plain(summary.overall),
                    "name": model.name,
                    "path": model.path,
                    "engine": model.engine,
                    "tokens_generated": model.tokens,
                    "seconds": round(model.seconds, 2),
                    "groups": {
                        column: [_plain(group) for group in groups] for column, groups in summary.groups.items()
                    },
                }
                for model, summary in zip(self.models, self.summaries, strict=True)
            ],
            "comparisons": [
                {
                    **{key: value for key, value in asdict(one).items() if key != "changes"},
                    "better": one.better,
                    "worse": one.worse,
                    "verdict": one.verdict,
                }
                for one in self.comparisons
            ],
            "notes": self.notes,
        }


def _worked(question: Question) -> bool:
    return question.reference.strip() != str(question.ground_truth)


def _heading(word: str, model: ModelResults, several: bool) -> str:
    return f"{word} [{model.name}]" if several else word


def _change(report: Report, other: ModelResults, row: int) -> str | None:
    mine, its = row_value(report.models[0], row, report.n), row_value(other, row, report.n)
    if mine is None or its is None:
        return None
    return SAME if mine == its else BETTER if mine > its else WORSE


def _plain(group: GroupScore) -> dict[str, Any]:
    values = asdict(group)
    values["pass_at"] = {f"pass@{k}": value for k, value in group.pass_at.items()}
    return values


def plain_text(value: Any) -> str:
    """A cell's text: lists and objects as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
