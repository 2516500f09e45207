"""The data of a launch: files, rows, and validation rows that stand in training too."""

from __future__ import annotations

from pathlib import Path

from common.data.checks import structure
from common.data.keys import prompt_key, question_of
from common.preflight import data
from common.preflight.findings import Problem, about
from common.preflight.knobs import Knobs


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
        knobs.error(name, about(path, error), value=path)
        return None
    problem = first_bad_row(file, knobs.algorithm)
    if problem:
        knobs.error(name, problem, value=path)
        return None
    if knobs.algorithm == "dpo":
        check_equal_answers(knobs, name, file)
    return file


def check_equal_answers(knobs: Knobs, name: str, file: data.DataFile) -> None:
    """Pairs that teach nothing: the trainer leaves them out."""
    equal = sum(row["chosen"] == row["rejected"] for row in file.sample)
    if equal == len(file.sample):
        knobs.error(name, "chosen and rejected are the same in every row", "mend the data", value=file.path)
    elif equal:
        knobs.warn(
            name,
            f"chosen and rejected are the same in {equal} of {len(file.sample)} rows looked at",
            "these are left out (.venv/bin/python -m common.data_utils validate names them)",
            value=file.path,
        )


def first_bad_row(file: data.DataFile, algorithm: str) -> Problem | None:
    """Return the first problem of a file's sample with its row number and how many rows have one, or None."""
    found = ((number, structure(algorithm, row)) for number, row in enumerate(file.sample, 1))
    problems = [(number, problem) for number, problem in found if problem]
    if not problems:
        return None
    number, problem = problems[0]
    columns = ", ".join(sorted(file.sample[0]))
    seen = f"{len(problems)} of {len(file.sample)} rows looked at; columns: {columns}"
    return Problem(f"row {number}: {problem} ({seen})", data.CONVERT)


def check_leak(knobs: Knobs, train: list[data.DataFile], validation: list[data.DataFile]) -> None:
    """Validation rows that stand in the training data measure memory, not ability."""
    seen = {prompt_key(question_of(row)) for file in train for row in file.sample}
    rows = [row for file in validation for row in file.sample]
    both = sum(prompt_key(question_of(row)) in seen for row in rows)
    if both:
        knobs.warn(
            "VAL_DATA",
            f"{both} of {len(rows)} rows looked at stand in the training data too",
            ".venv/bin/python -m common.data_utils validate --against names them",
        )
