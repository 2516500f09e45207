"""Answers that an earlier evaluation (or another program) wrote down: scored again, or compared, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.csv_text import from_csv_text
from common.data.readers.files import DataError, kind_of
from common.data.readers.records import place_word, read_records
from common.evaluation.engines.engine import Answer, Deliver
from common.evaluation.partial import Key
from common.evaluation.questions import Question
from common.evaluation.report.excel_text import was_cut
from common.evaluation.settings import EvaluationError

COLUMNS = ("response", "output", "completion")


def deliver_recorded(path: Path, questions: Sequence[Question], keys: Iterable[Key], deliver: Deliver) -> None:
    """Deliver the answers of a file whose rows are those of the input, in the same order.

    Args:
        path: JSONL, JSON, CSV, parquet or xlsx with a column ``response``; several answers to a prompt are in rows
            one after another, numbered from 1 in a column ``sample``.
        questions: The rows of the input.
        keys: Answers that are not there yet.
        deliver: Gets them.

    Raises:
        EvaluationError: If the file cannot be read or belongs to other questions.
    """
    missing = set(keys)
    is_csv = kind_of(path)[0] in (".csv", ".tsv")  # what looks like a formula has a ' before it there
    row = -1
    try:
        for record in read_records(path):
            if record.row is None:
                raise EvaluationError(f"{path}: {place_word(path)} {record.place}: {record.problem}")
            if is_csv:
                values = {key: from_csv_text(value) for key, value in record.row.items() if isinstance(value, str)}
                record = record._replace(row=record.row | values)
            sample = int(record.row.get("sample") or 1) - 1
            row += sample == 0
            if row >= len(questions):
                break  # --limit
            _check_prompt(path, record.place, record.row, questions[row])
            if (row, sample) in missing:
                missing.discard((row, sample))
                deliver(_answer(path, record.row, row, sample))
    except (DataError, OSError) as error:
        raise EvaluationError(f"--model_path {error}") from error
    for key in missing:
        deliver(Answer(*key, finish="error", error=f"{path.name} has no answer to it"))


def _check_prompt(path: Path, place: int, row: dict[str, Any], question: Question) -> None:
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.split() != question.prompt.split() and not question.problem:
        raise EvaluationError(
            f"{path}: {place_word(path)} {place} answers another question than row {question.row + 1} of the input: "
            f"{prompt[:60]!r} instead of {question.prompt[:60]!r}"
        )


def _answer(path: Path, row: dict[str, Any], number: int, sample: int) -> Answer:
    column = next((name for name in COLUMNS if name in row), None)
    if column is None:
        raise EvaluationError(f"{path}: has no column {' or '.join(COLUMNS)}; its columns are {', '.join(row)}")
    text = row[column]
    if isinstance(text, str) and was_cut(text):
        raise EvaluationError(
            f"{path}: the answer to row {number + 1} was cut at what a cell holds; score the .jsonl of that evaluation"
        )
    failed = str(row.get("error") or "reward: ")  # of an answer that is there, only the reward can have failed
    if text is None or (text == "" and not failed.startswith("reward: ")):  # a CSV file has no empty cell but ""
        return Answer(number, sample, finish="error", error=str(row.get("error") or "there was no answer"))
    tokens = row.get("tokens")
    finish = "length" if row.get("finish") == "length" else "stop"
    return Answer(number, sample, str(text), int(float(tokens)) if tokens else 0, 0, finish)
