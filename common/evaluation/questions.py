"""The rows of an input file as questions to a model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.data.messages import Message, RowError
from common.data.names import ANSWERS, KEPT, QUESTIONS, TRUTHS, Columns
from common.data.readers.files import DataError
from common.data.readers.records import place_word, read_records
from common.data.row_reader import read_example
from common.data.rows import final_answer, loaded
from common.evaluation.settings import EvaluationError

NOT_SHOWN = {*QUESTIONS, *ANSWERS, *TRUTHS, *KEPT, "id", "messages", "conversations", "conversation"}
NOT_SHOWN |= {"chosen", "rejected", "tools", "history", "system"}
SHORT = 40  # characters; a longer reference answer without a mark cannot be compared


@dataclass(slots=True)
class Question:
    """One row of the input.

    Args:
        row: Its number among the rows, from 0.
        place: Line or row of the file, from 1.
        messages: The conversation to answer; empty when there is a problem.
        id: Column ``id``, or the number of the row from 1.
        ground_truth: What a reward compares with; None when there is none.
        from_reference: The ground truth was taken out of a worked answer.
        reference: The worked answer of the row, or "".
        data_source: Column ``data_source``, or "".
        ability: Column ``ability``, or "".
        extra_info: Column ``extra_info``.
        tools: Descriptions of tools for the chat template.
        columns: Other columns, kept as they are.
        problem: Why it cannot be asked, or None.
    """

    row: int
    place: int
    messages: list[Message] = field(default_factory=list)
    id: Any = None
    ground_truth: Any = None
    from_reference: bool = False
    reference: str = ""
    data_source: str = ""
    ability: str = ""
    extra_info: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def prompt(self) -> str:
        """The conversation as a person reads it: the text alone when there is only one message."""
        if len(self.messages) == 1:
            return self.messages[0]["content"]
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in self.messages)


def read_questions(path: Path, columns: Columns, limit: int | None = None) -> list[Question]:
    """Read the rows of a JSON, JSONL, CSV, TSV, parquet or xlsx file.

    Rows that cannot be used come with a ``problem``, so that none is lost silently.

    Args:
        path: The file.
        columns: Names of columns that the user gave.
        limit: Read this many rows at most.

    Raises:
        EvaluationError: If the file cannot be read, is empty, or no row can be used.
    """
    if not path.exists():
        raise EvaluationError(f"--input_file {path}: no such file")
    if path.is_dir():
        raise EvaluationError(f"--input_file {path}: is a folder; give one file")
    if path.stat().st_size == 0:
        raise EvaluationError(f"--input_file {path}: is empty")
    questions: list[Question] = []
    try:
        for record in read_records(path):
            if limit is not None and len(questions) >= limit:
                break
            question = Question(len(questions), record.place)
            try:
                if record.row is None:
                    raise RowError(record.problem or "cannot be read")
                fill(question, record.row, columns)
            except RowError as error:
                question.problem = str(error)
                question.id = question.row + 1
            questions.append(question)
    except (DataError, OSError) as error:
        raise EvaluationError(f"--input_file {error}") from error
    usable = sum(question.problem is None for question in questions)
    if not questions:
        raise EvaluationError(f"--input_file {path}: has no rows")
    if not usable:
        first = questions[0]
        raise EvaluationError(
            f"--input_file {path}: none of its {len(questions):,} rows can be used; "
            f"{place_word(path)} {first.place}: {first.problem}"
        )
    return questions


def fill(question: Question, row: dict[str, Any], columns: Columns) -> None:
    """Understand a row.

    Raises:
        RowError: If it holds no prompt.
    """
    row = {str(key): value for key, value in row.items()}
    if "reward_model" in row:  # verl's own form: what parquet made of messages is undone
        row = loaded(row)
    example = read_example(row, columns)
    if not any(message["content"].strip() for message in example.prompt):
        raise RowError("prompt: is empty")
    question.messages, question.tools = example.prompt, example.tools
    question.id = row["id"] if row.get("id") is not None else question.row + 1
    question.data_source = str(row.get("data_source") or "")
    question.ability = str(row.get("ability") or "")
    extra = row.get("extra_info")
    question.extra_info = extra if isinstance(extra, dict) else {}
    question.reference = "".join(message["content"] for message in example.answer or example.chosen)
    truth = example.ground_truth
    if truth is not None and truth != "":
        question.ground_truth = str(truth) if isinstance(truth, int | float) else truth
    elif question.reference:
        truth = final_answer(question.reference)
        if truth != question.reference.strip() or len(truth) <= SHORT:
            question.ground_truth, question.from_reference = truth, True
    hidden = NOT_SHOWN | example.used
    question.columns = {name: value for name, value in row.items() if name not in hidden}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, which tells whether it is still the same."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(stream)


def _digest(stream: Any) -> str:
    digest = hashlib.sha256()  # Python 3.10
    while data := stream.read(1 << 20):
        digest.update(data)
    return digest.hexdigest()


def problems(questions: list[Question], path: Path) -> list[str]:
    """Lines about the rows that cannot be asked, the first few of them by name."""
    bad = [question for question in questions if question.problem]
    lines = [f"{path.name}: {place_word(path)} {question.place}: {question.problem}" for question in bad[:5]]
    return lines + ([f"and {len(bad) - 5:,} more"] if len(bad) > 5 else [])
