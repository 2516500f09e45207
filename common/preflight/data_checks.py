"""The data of a launch: files, rows, lengths, and validation rows that stand in training too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common.data.checks import structure
from common.data.keys import prompt_key, question_of
from common.data.rows import loaded_tools
from common.preflight import data
from common.preflight.knobs import SUPERVISED, Knobs
from common.preflight.model import ModelInfo, token_lengths


def in_own_form(path: Path, algorithm: str) -> bool:
    """Whether a file is parquet in the form that the trainer reads, a few bad rows aside, and needs no conversion."""
    if path.suffix != ".parquet":
        return False
    try:
        sample = data.read_file(path).sample
    except ValueError:
        return False  # the conversion says what is wrong
    good = sum(structure(algorithm, row) is None for row in sample)
    return structure(algorithm, sample[0]) is None or 2 * good > len(sample)


def check_file(knobs: Knobs, name: str, path: Path) -> data.DataFile | None:
    """Read a file that is as the trainer reads it; None where it cannot be used, which is then an error."""
    try:
        file = data.read_file(path)
    except ValueError as error:
        knobs.errors.append(f"{name}={error}")
        return None
    problem = first_bad_row(file, knobs.algorithm)
    if problem:
        knobs.errors.append(f"{name}={problem}")
        return None
    if knobs.algorithm == "dpo":
        check_equal_answers(knobs, name, file)
    return file


def check_equal_answers(knobs: Knobs, name: str, file: data.DataFile) -> None:
    """Pairs that teach nothing: the trainer leaves them out."""
    equal = sum(row["chosen"] == row["rejected"] for row in file.sample)
    if equal == len(file.sample):
        knobs.errors.append(f"{name}={file.path}: chosen and rejected are the same in every row; mend the data")
    elif equal:
        knobs.warnings.append(
            f"{name}={file.path}: chosen and rejected are the same in {equal} of {len(file.sample)} rows looked at; "
            "these are left out (.venv/bin/python -m common.data_utils validate names them)"
        )


def first_bad_row(file: data.DataFile, algorithm: str) -> str | None:
    """Return the first problem of a file's sample with its row number and how many rows have one, or None."""
    found = ((number, structure(algorithm, row)) for number, row in enumerate(file.sample, 1))
    problems = [(number, problem) for number, problem in found if problem]
    if not problems:
        return None
    number, problem = problems[0]
    columns = ", ".join(sorted(file.sample[0]))
    return (
        f"{file.path}: row {number}: {problem} ({len(problems)} of {len(file.sample)} rows looked at; "
        f"columns: {columns}). {data.CONVERT}"
    )


def measure(
    knobs: Knobs, model: ModelInfo | None, files: list[data.DataFile], tools: list[dict] | None = None
) -> tuple[list[int], list[int]]:
    """Token lengths of the sampled rows under the model's chat template; empty when they cannot be measured.

    Returns:
        Lengths of conversations (sft) or prompts; for dpo also those of the longer answers.
    """
    if not model or not model.chat_template or not files:
        return [], []
    rows = [row for file in files for row in file.sample]
    column = "messages" if knobs.algorithm == "sft" else "prompt"
    try:
        talks = ((talk, tools or own) for talk, own in _talks(rows, column))
        lengths = token_lengths(model, talks, answer_next=knobs.algorithm != "sft")
        answers = []
        if knobs.algorithm == "dpo":
            sides = [token_lengths(model, _talks(rows, column, side), False) for side in ("chosen", "rejected")]
            answers = [max(c, r) - prompt for prompt, c, r in zip(lengths, *sides, strict=True)]
    except ValueError as error:
        knobs.warnings.append(f"token lengths were not measured: {error}")
        return [], []
    knob = "MAX_LENGTH" if knobs.algorithm == "sft" else "MAX_PROMPT_LENGTH"
    _warn_of_long_rows(knobs, knob, lengths)
    if answers:
        _warn_of_long_rows(knobs, "MAX_RESPONSE_LENGTH", answers)
    return lengths, answers


def _talks(rows: list[dict], *columns: str) -> Iterator[tuple[list[dict], list[dict] | None]]:
    """Messages of some columns, one after the other, with the row's tools."""
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    for row in rows:
        talk = []
        for column in columns:
            value = row[column]
            talk += [{"role": roles[column], "content": value}] if isinstance(value, str) else value
        yield talk, loaded_tools(row.get("tools"))


def _warn_of_long_rows(knobs: Knobs, knob: str, lengths: list[int]) -> None:
    limit = knobs.number(knob)
    over = sum(length > limit for length in lengths)
    if not limit or not over:
        return
    left_out = knobs.algorithm not in SUPERVISED
    fate = "will be left out" if left_out else "will be cut"
    knobs.warnings.append(
        f"{knob}={limit}: {over} of {len(lengths)} rows looked at are longer and {fate} (longest {max(lengths)})"
    )
    if over == len(lengths) and left_out:
        knobs.errors.append(f"{knob}={limit}: every prompt is longer (shortest {min(lengths)} tokens); raise it")


def check_leak(knobs: Knobs, train: list[data.DataFile], validation: list[data.DataFile]) -> None:
    """Validation rows that stand in the training data measure memory, not ability."""
    seen = {prompt_key(question_of(row)) for file in train for row in file.sample}
    rows = [row for file in validation for row in file.sample]
    both = sum(prompt_key(question_of(row)) in seen for row in rows)
    if both:
        knobs.warnings.append(
            f"VAL_DATA={knobs['VAL_DATA']}: {both} of {len(rows)} rows looked at stand in the training data too; "
            ".venv/bin/python -m common.data_utils validate --against names them"
        )
