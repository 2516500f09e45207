"""A row of each set as a question: the fields of its prompt, what is right, and the group it belongs to."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.data.messages import RowError
from common.data.rows import final_answer

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Item:
    """A question of a set.

    Args:
        fields: Of the set's prompt.
        truth: What the reward compares with.
        group: Subject, level or task; "" when there is none.
        id: As the set names it, or None.
    """

    fields: dict[str, str]
    truth: Any
    group: str = ""
    id: Any = None


def read_item(name: str, row: dict[str, Any], number: int, subject: str) -> Item:
    """Understand a row of a set.

    Args:
        name: Of the set.
        row: As it is in the file.
        number: Of the row, from 0; decides the order of GPQA's options.
        subject: Name of the folder or file, for sets with one for each subject.

    Raises:
        RowError: If a field is missing.
    """
    try:
        return READERS[name](row, number, subject)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        known = ", ".join(map(str, row))
        raise RowError(f"is no row of {name}: {type(error).__name__} {error}; its fields are {known}") from error


def _gsm8k(row: dict[str, Any], number: int, subject: str) -> Item:
    return Item({"question": row["question"]}, final_answer(row["answer"]))


def _competition(row: dict[str, Any], number: int, subject: str) -> Item:
    question = row["problem"] if "problem" in row else row["question"]
    truth = row["answer"]
    if isinstance(truth, float) and truth.is_integer():
        truth = int(truth)
    group = row.get("subject") or (f"level {row['level']}" if row.get("level") else "")
    known = row.get("id") if row.get("id") is not None else row.get("unique_id")  # AMC counts from 0
    return Item({"question": question}, str(truth), str(group), known)


def _gpqa(row: dict[str, Any], number: int, subject: str) -> Item:
    right = row["Correct Answer"].strip()
    options = [right, *(row[f"Incorrect Answer {i}"].strip() for i in (1, 2, 3))]
    order = list(range(4))
    random.Random(number).shuffle(order)
    fields = _choices(row["Question"], [options[place] for place in order])
    return Item(fields, LETTERS[order.index(0)], row.get("High-level domain") or "", row.get("Record ID"))


def _mmlu_pro(row: dict[str, Any], number: int, subject: str) -> Item:
    options = [option for option in row["options"] if option != "N/A"]
    return Item(_choices(row["question"], options), row["answer"], row.get("category") or "", row.get("question_id"))


def _bbh(row: dict[str, Any], number: int, subject: str) -> Item:
    return Item({"question": row["input"]}, str(row["target"]).strip(), subject)


def _chinese_exam(row: dict[str, Any], number: int, subject: str) -> Item:
    names = {str(name).lower(): value for name, value in row.items()}
    answer = names["answer"].strip()
    if answer not in ("A", "B", "C", "D"):
        raise ValueError(f"answer {answer!r}")
    fields = _choices(str(names["question"]), [str(names[letter]) for letter in "abcd"])
    # No id: C-Eval's counts anew in each subject, and rows are told apart by it.
    return Item({**fields, "subject": subject.replace("_", " ") or "考试"}, answer, subject)


def _cmath(row: dict[str, Any], number: int, subject: str) -> Item:
    truth = row["golden"] if "golden" in row else row["answer"]
    truth = truth[0] if isinstance(truth, list | tuple) else truth
    group = f"grade {row['grade']}" if row.get("grade") else ""
    return Item({"question": row["question"]}, str(truth), group)


def _humaneval(row: dict[str, Any], number: int, subject: str) -> Item:
    truth = {name: row[name] for name in ("prompt", "test", "entry_point")}
    truth["prompt"].rindex(f"def {truth['entry_point']}")  # where the answer goes
    return Item({"question": row["prompt"]}, truth, "", row.get("task_id"))


def _mbpp(row: dict[str, Any], number: int, subject: str) -> Item:
    tests = list(row["test_list"])
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
    question = row["text"] if "text" in row else row["prompt"]
    truth = {"test_list": tests, "test_setup_code": setup}
    return Item({"question": question, "tests": "\n".join(tests)}, truth, "", row.get("task_id"))


def _ifeval(row: dict[str, Any], number: int, subject: str) -> Item:
    known = {name: row[name] for name in ("key", "prompt", "instruction_id_list", "kwargs")}
    return Item({"question": row["prompt"]}, json.dumps(known, ensure_ascii=False, default=list), "", row["key"])


def _choices(question: str, options: list[str]) -> dict[str, str]:
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return {"question": question.strip(), "options": "\n".join(lines), "letters": LETTERS[: len(options)]}


READERS: dict[str, Callable[[dict[str, Any], int, str], Item]] = {
    "gsm8k": _gsm8k,
    "math500": _competition,
    "aime24": _competition,
    "aime25": _competition,
    "amc": _competition,
    "gpqa": _gpqa,
    "mmlu_pro": _mmlu_pro,
    "bbh": _bbh,
    "ceval": _chinese_exam,
    "cmmlu": _chinese_exam,
    "cmath": _cmath,
    "humaneval": _humaneval,
    "mbpp": _mbpp,
    "ifeval": _ifeval,
}
