"""The data of a launch: files, rows, their number and lengths, and validation rows that are in training too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.data.checks import structure
from common.data.keys import prompt_key, question_of
from common.data.order import MARKS
from common.data.self_play import is_pair
from common.preflight import auto, data
from common.preflight.findings import Problem, about
from common.preflight.knobs import Knobs
from common.preflight.model import ModelInfo


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
    problem = first_bad_row(file, knobs.data_form)
    if problem:
        knobs.error(name, problem, value=path)
        return None
    if knobs.data_form == "dpo":
        check_equal_answers(knobs, name, file)
    return file


def check_equal_answers(knobs: Knobs, name: str, file: data.DataFile) -> None:
    """Pairs that teach nothing: the trainer leaves them out."""
    equal = sum(is_pair(row) and row["chosen"] == row["rejected"] for row in file.sample)
    if equal == len(file.sample):
        knobs.error(name, "chosen and rejected are the same in every row", "fix the data", value=file.path)
    elif equal:
        knobs.warn(
            name,
            f"chosen and rejected are the same in {equal} of {len(file.sample)} rows looked at",
            "these are left out (.venv/bin/python -m common.data_utils validate names them)",
            value=file.path,
        )


def resolve_margin(knobs: Knobs, files: list[data.DataFile]) -> None:
    """Whether the rows' margins count: where there are some."""
    if "MARGIN" not in knobs:
        return
    having = sum(row.get("margin") is not None for file in files for row in file.sample)
    if knobs["MARGIN"] == "true" and not having:
        knobs.error("MARGIN", "no row looked at has a margin", "add a column margin (a number), or set MARGIN=false")
    knobs.resolve("MARGIN", str(having > 0).lower(), f"{having} rows looked at have a margin")


def check_order(knobs: Knobs, files: list[data.DataFile]) -> None:
    """Whether the rows have what DATA_ORDER goes by."""
    order = knobs.values.get("DATA_ORDER", "")
    if order not in MARKS:
        return
    rows = [row for file in files for row in file.sample if not is_pair(row)]
    lacking = sum((row.get("extra_info") or {}).get(MARKS[order]) is None for row in rows)
    if lacking:
        knobs.error(
            "DATA_ORDER",
            f"{lacking} of {len(rows)} rows looked at have no extra_info.{MARKS[order]}",
            ".venv/bin/python -m common.data_utils difficulty makes it, or set shuffled",
        )


def marks_in(file: data.DataFile) -> tuple[int, int]:
    """Good and bad answers in a file's sample, for losses of single answers: a pair is one of each."""
    pairs = sum(is_pair(row) for row in file.sample)
    good = sum(row.get("label") is True for row in file.sample)
    return pairs + good, len(file.sample) - good


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
    """Validation rows that are in the training data measure memory, not ability."""
    seen = {prompt_key(question_of(row)) for file in train for row in file.sample}
    rows = [row for file in validation for row in file.sample]
    both = sum(prompt_key(question_of(row)) in seen for row in rows)
    if both:
        knobs.warn(
            "VAL_DATA",
            f"{both} of {len(rows)} rows looked at are in the training data too",
            ".venv/bin/python -m common.data_utils validate --against names them",
        )


def check_rows(knobs: Knobs, rows: int, validation_rows: int) -> None:
    """Batch and steps against the number of rows."""
    batch = knobs.number("BATCH_SIZE")
    if not batch:
        return
    if batch > rows:
        knobs.error("BATCH_SIZE", f"the training data has only {rows} rows", "lower it or add data", value=batch)
    if knobs.algorithm == "sft" and validation_rows and validation_rows < batch:
        knobs.error(
            "VAL_DATA",
            f"has {validation_rows} rows, fewer than BATCH_SIZE={batch}: verl would validate on nothing",
            f"use BATCH_SIZE={validation_rows} or less, or more validation rows",
        )
    total, most = knobs.number("TOTAL_STEPS"), rows // batch * knobs.number("TOTAL_EPOCHS")
    if rows >= batch and total > most:
        knobs.error(
            "TOTAL_STEPS",
            f"TOTAL_EPOCHS={knobs['TOTAL_EPOCHS']} ends after {most} steps",
            "set TOTAL_EPOCHS=auto",
            value=total,
        )


def check_context(knobs: Knobs, model: ModelInfo | None) -> None:
    """Length limits against the longest sequence the model was made for."""
    if not model:
        return
    longest, two = auto.longest_sequence(knobs), two_ropes(model.config)
    names = "MAX_LENGTH" if "MAX_LENGTH" in knobs else "MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH"
    if model.context and longest > model.context:
        knobs.error(names, f"the model was made for {model.context} tokens", "lower the limits", value=longest)
    elif two and longest > two:
        problem = (
            f"up to {two} tokens a {model.config.get('model_type')} turns its positions by short_factor, beyond by "
            "long_factor, and transformers takes one of them for all sequences of a batch: short ones next to a long "
            "one would be computed as another model"
        )
        fix = f"keep the sum within {two}, or write long_factor over short_factor in a copy's config.json, as vLLM does"
        knobs.error(names, problem, fix, value=longest)


def two_ropes(config: dict[str, Any]) -> int:
    """Tokens from which on a model turns its positions in another way (longrope, as in Phi-3), 0 for all others."""
    text = config.get("text_config") or config
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    if (rope.get("rope_type") or rope.get("type")) != "longrope" or rope.get("short_factor") == rope.get("long_factor"):
        return 0
    return text.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings") or 0
