r"""What the bench feeds to a reward function: real rows with answers good, bad and odd, or answers of a model."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.answers import accepted
from common.data.checks import structure
from common.data.readers.records import read_records
from common.data.rows import loaded
from common.rewards.code_tests import is_tests
from common.rewards.structured import kind_of

TRUTHS = 1000  # further rows of which only the truths are tried, each as its own answer
ODD_ROWS = 5  # rows that get the empty, huge and broken answers
HUGE = 100_000  # characters of a huge answer
FORMS = {"#### N": "#### {}", r"\boxed{N}": r"\boxed{{{}}}", "N": "{}"}
WRITTEN = {**FORMS, "<answer>N": "<answer>{}</answer>"}
SUFFIXES = (".parquet", ".jsonl", ".json")


@dataclass(frozen=True)
class Case:
    """One call of the reward function.

    Args:
        row: Number of the row in the data file, from 1.
        kind: `good`, `bad`, `empty`, `huge`, `broken`, `thought` (one that is not finished), `truth` (a good answer to
            a further row), or `response` (an answer of a model).
        form: How the answer is written, for the report.
        answer: The model's answer.
        truth: Column `reward_model.ground_truth`.
        data_source: Column `data_source`.
        extra_info: Column `extra_info`.
        group: Answers to the same prompt have the same one; only for `response`.
        was: Score that the dump holds for this answer, if any.
        of: The accepted answer that a good one was made of.
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
    of: str = ""

    def arguments(self) -> dict[str, Any]:
        """Returns the keyword arguments of verl's call."""
        return {
            "data_source": self.data_source,
            "solution_str": self.answer,
            "ground_truth": self.truth,
            "extra_info": dict(self.extra_info),
        }


def read_rows(path: Path, rows: int, extra: Collection[int] = ()) -> dict[int, dict[str, Any]]:
    """Reads rows of a file with verl's RL columns: a sample of the whole file, drawn the same each time.

    Args:
        path: A parquet, jsonl or json file.
        rows: How many.
        extra: Numbers of rows, from 1, that are read in addition.

    Returns:
        Number -> row: first the sample in the order of the file, then the additional ones.

    Raises:
        ValueError: If the file cannot be read, or a row lacks what verl needs; the message names file and row.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: the bench reads {' or '.join(SUFFIXES)}, with the columns of verl's RL trainers")
    draw, sample, added = random.Random(0), {}, {}
    for number, record in enumerate(read_records(path), 1):
        place = number if number <= rows else draw.randint(1, number)  # Vitter's algorithm R
        if place <= rows:
            sample[place] = number, record
        if number in extra:
            added[number] = record
    if not sample:
        raise ValueError(f"{path}: has no rows")
    drawn = dict(sorted(sample.values()))
    return {number: _row(path, number, record) for number, record in (drawn | added).items()}


def _row(path: Path, number: int, record: Any) -> dict[str, Any]:
    if record.row is None:
        raise ValueError(f"{path}: line {record.place}: {record.problem}")
    row = {name: loaded(value) for name, value in record.row.items()}
    problem = structure("grpo", row)
    if problem:
        raise ValueError(f"{path}: row {number}: {problem}")
    return row


def make_cases(rows: dict[int, dict[str, Any]], full: int) -> list[Case]:
    """Builds answers to every row: its own truths, another row's, and on the first rows odd ones.

    Args:
        rows: Number -> row.
        full: So many of them, spread over all, get all answers; the others only their own truths.
    """
    own = {number: answers_of(row["reward_model"]["ground_truth"]) for number, row in rows.items()}
    numbers = list(rows)
    chosen = numbers[:: max(1, len(numbers) // full)][:full]
    everything = [answers[0] for answers in own.values()]
    cases: list[Case] = []
    for place, number in enumerate(chosen):
        row, answers = rows[number], own[number]
        for form, text in WRITTEN.items():
            cases += [
                _case(number, row, "good", form, text.format(one), of=of) for one, of in _several(answers).items()
            ]
        solution = (row.get("extra_info") or {}).get("answer")
        if isinstance(solution, str) and solution.strip() and solution not in answers:
            cases.append(_case(number, row, "good", "extra_info.answer", solution))
        at = numbers.index(number) + 1
        other = next((truth for truth in everything[at:] + everything if truth not in answers), None)
        for form, text in WRITTEN.items() if other is not None else ():
            cases.append(_case(number, row, "bad", form, text.format(other)))
        if place < ODD_ROWS:
            cases += [_case(number, row, kind, form, text) for kind, form, text in odd_answers(answers[0])]
    for number in (number for number in numbers if number not in set(chosen)):
        for form, text in WRITTEN.items():
            cases += [
                _case(number, rows[number], "truth", form, text.format(one), of=of)
                for one, of in _several(own[number]).items()
            ]
    return cases


def _several(answers: list[str]) -> dict[str, str]:
    """Returns answer -> the accepted answer it means; letters may be options that must all be named."""
    if len(answers) > 1 and all(len(answer) == 1 and answer.isalpha() for answer in answers):
        return dict.fromkeys([", ".join(answers), *answers], ", ".join(answers))
    return {answer: answer for answer in answers}


def answers_of(truth: Any) -> list[str]:
    """Returns the accepted answers as a model would write them; of tests, and of what is not an answer, the text."""
    if is_tests(truth) or kind_of(truth):
        return [str(truth)]
    try:
        answers = [str(answer) for answer in accepted(truth)]
    except ValueError:
        return [str(truth)]
    is_written_list = len(answers) > 1 and isinstance(truth, str)  # the text itself is not an answer then
    return list(dict.fromkeys(answers[1:] if is_written_list else answers))


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
    for form, text in WRITTEN.items():
        yield "thought", f"<think>{form}", "<think>\nPerhaps " + text.format(truth)


def answered_rows(path: Path) -> set[int]:
    """Returns the numbers of the rows, from 1, that a file of answers names."""
    numbers = set()
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            try:
                numbers.add(int(json.loads(line)["index"]) + 1)
            except (ValueError, KeyError, TypeError):
                continue  # a verl dump, or a line that read_responses names
    return numbers


def read_responses(path: Path, rows: dict[int, dict[str, Any]]) -> list[Case]:
    """Reads answers of a model.

    Args:
        path: A jsonl file: `{"index": 0, "responses": ["...", ...]}` (row of the data file from 0; `response` for a
            single one), or a verl dump (rollouts/N.jsonl, validation/N.jsonl: input, output, gts, score).
        rows: Number -> row of the data file. A dump names no data source, so that of the row with its prompt counts,
            else that of the first row.

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
                    f"{path}: line {number}: {error}; needs index (of a row, from 0) and responses, or "
                    f"verl's input, output and gts"
                ) from error
    if not cases:
        raise ValueError(f"{path}: has no answers")
    return cases


def _responses(entry: dict[str, Any], rows: dict[int, dict[str, Any]]) -> list[Case]:
    if "output" in entry and "gts" in entry:
        number = _row_of_prompt(entry["input"], rows)
        row = {**rows[number], "reward_model": {"ground_truth": entry["gts"]}}
        group, was = str(entry.get("uid", entry["input"])), entry.get("score")
        return [_case(number, row, "response", "dump", str(entry["output"]), group, was)]
    number = int(entry["index"]) + 1
    if number not in rows:
        raise IndexError(f"index {number - 1} is not among the rows of the data")
    answers = entry["responses"] if "responses" in entry else [entry["response"]]
    return [_case(number, rows[number], "response", "response", str(text), str(number)) for text in answers]


def _row_of_prompt(prompt: str, rows: dict[int, dict[str, Any]]) -> int:
    for number, row in rows.items():
        content = row["prompt"][-1].get("content")
        if isinstance(content, str) and content and content in prompt:
            return number
    return next(iter(rows))


def _case(
    number: int,
    row: dict[str, Any],
    kind: str,
    form: str,
    text: str,
    group: str = "",
    was: float | None = None,
    of: str = "",
) -> Case:
    truth, extra = row["reward_model"]["ground_truth"], {"prompt": row.get("prompt"), **(row.get("extra_info") or {})}
    return Case(number, kind, form, text, truth, row["data_source"], extra, group, was, of)
