r"""What the bench feeds to a reward function: real rows with answers good, bad and odd, or answers of a model."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.checks import structure
from common.preflight.data import read_file

ODD_ROWS = 5  # rows that get the empty, huge and broken answers
HUGE = 100_000  # characters of a huge answer
FORMS = {"#### N": "#### {}", r"\boxed{N}": r"\boxed{{{}}}", "N": "{}"}
SUFFIXES = (".parquet", ".jsonl", ".json")


@dataclass(frozen=True)
class Case:
    """One call of the reward function.

    Args:
        row: Number of the row in the data file, from 1.
        kind: `good`, `bad`, `empty`, `huge`, `broken`, or `response` (an answer of a model).
        form: How the answer is written, for the report.
        answer: The model's answer.
        truth: Column `reward_model.ground_truth`.
        data_source: Column `data_source`.
        extra_info: Column `extra_info`.
        group: Answers to the same prompt have the same one; only for `response`.
        was: Score that the dump holds for this answer, if any.
    """

    row: int
    kind: str
    form: str
    answer: str
    truth: Any
    data_source: str
    extra_info: dict[str, Any]
    group: str = ""
    was: float | None = None

    def arguments(self) -> dict[str, Any]:
        """Returns the keyword arguments of verl's call."""
        return {
            "data_source": self.data_source,
            "solution_str": self.answer,
            "ground_truth": self.truth,
            "extra_info": dict(self.extra_info),
        }


def read_rows(path: Path, rows: int) -> list[dict[str, Any]]:
    """Reads the first rows of a file with verl's RL columns.

    Raises:
        ValueError: If the file cannot be read, or a row lacks what verl needs; the message names file and row.
    """
    sample = read_file(path, SUFFIXES).sample[:rows]
    for number, row in enumerate(sample, 1):
        problem = structure("grpo", row)
        if problem:
            raise ValueError(f"{path}: row {number}: {problem}")
    return sample


def make_cases(rows: list[dict[str, Any]]) -> list[Case]:
    """Builds answers to every row: its own truth, another row's, and on the first rows odd ones."""
    truths = [_plain_truth(row) for row in rows]
    cases = []
    for number, row in enumerate(rows, 1):
        own = truths[number - 1]
        for form, text in FORMS.items():
            cases.append(_case(number, row, "good", form, text.format(own)))
        solution = (row.get("extra_info") or {}).get("answer")
        if isinstance(solution, str) and solution.strip() and solution != own:
            cases.append(_case(number, row, "good", "extra_info.answer", solution))
        other = next((truth for truth in truths[number:] + truths if truth != own), None)
        for form, text in FORMS.items() if other is not None else ():
            cases.append(_case(number, row, "bad", form, text.format(other)))
        if number <= ODD_ROWS:
            cases += [_case(number, row, kind, form, text) for kind, form, text in odd_answers(own)]
    return cases


def odd_answers(truth: str) -> Iterator[tuple[str, str, str]]:
    """Yields (kind, form, answer) of the answers that models give when something goes wrong."""
    yield "empty", "empty", ""
    yield "empty", "white space", " \n\t "
    yield "huge", "prose", "so we add them up, " * (HUGE // 19) + f"\n#### {truth}"
    yield "huge", "one digit", "1" * HUGE
    yield "huge", "braces", r"\boxed{" * (HUGE // 7)
    yield "broken", "the word None", "None"
    yield "broken", "cut in the middle", rf"so the answer is \boxed{{{truth[: len(truth) // 2]}"
    yield "broken", "only the mark", "Altogether:\n####"
    yield "broken", "unbalanced braces", rf"$\boxed{{{{{{{truth}}}}}}}}}}}}}$ }}}}"
    yield "broken", "binary rubbish", random.Random(0).randbytes(400).decode("latin-1") + "\0\0\ufffd"
    yield "broken", "lone surrogate", "\ud800 \udfff #### \ud83d"


def read_responses(path: Path, rows: list[dict[str, Any]]) -> list[Case]:
    """Reads answers of a model.

    Args:
        path: A jsonl file: `{"index": 0, "responses": ["...", ...]}` (row of the data file from 0; `response` for a
            single one), or a dump of verl's (rollouts/N.jsonl, validation/N.jsonl: input, output, gts, score).
        rows: Rows of the data file. A dump names no data source, so that of the row with its prompt counts, else
            that of the first row.

    Raises:
        ValueError: If a line cannot be read, has neither form, or names a row that is not there.
    """
    cases = []
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}: line {number}: {error}") from error
            try:
                cases += _responses(entry, rows)
            except (KeyError, TypeError, IndexError) as error:
                raise ValueError(
                    f"{path}: line {number}: {error}; needs index (0..{len(rows) - 1}, see --rows) and responses, or "
                    f"verl's input, output and gts"
                ) from error
    if not cases:
        raise ValueError(f"{path}: has no answers")
    return cases


def _responses(entry: dict[str, Any], rows: list[dict[str, Any]]) -> list[Case]:
    if "output" in entry and "gts" in entry:
        number = _row_of_prompt(entry["input"], rows)
        row = {**rows[number], "reward_model": {"ground_truth": entry["gts"]}}
        group, was = str(entry.get("uid", entry["input"])), entry.get("score")
        return [_case(number + 1, row, "response", "dump", str(entry["output"]), group, was)]
    number = int(entry["index"])
    if not 0 <= number < len(rows):
        raise IndexError(f"index {number} is not among the rows that were read")
    answers = entry["responses"] if "responses" in entry else [entry["response"]]
    return [_case(number + 1, rows[number], "response", "response", str(text), str(number)) for text in answers]


def _row_of_prompt(prompt: str, rows: list[dict[str, Any]]) -> int:
    for number, row in enumerate(rows):
        content = row["prompt"][-1].get("content")
        if isinstance(content, str) and content and content in prompt:
            return number
    return 0


def _case(
    number: int, row: dict[str, Any], kind: str, form: str, text: str, group: str = "", was: float | None = None
) -> Case:
    truth, extra = row["reward_model"]["ground_truth"], {"prompt": row.get("prompt"), **(row.get("extra_info") or {})}
    return Case(number, kind, form, text, truth, row["data_source"], extra, group, was)


def _plain_truth(row: dict[str, Any]) -> str:
    """Returns the truth as a model would write it: the first of several."""
    truth = row["reward_model"]["ground_truth"]
    return str(truth[0] if isinstance(truth, list) and truth else truth)
