"""Every bad row of a file, with its place, field and reason; and what its lengths ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.data import checks, rows
from common.data.contamination import Contamination
from common.data.conversation import Renderer
from common.data.convert import Source, data_set_name, row_from
from common.data.keys import prompt_key, question_of, row_key
from common.data.lengths import why_not_shown
from common.data.messages import RowError
from common.data.readers.files import DataError, kind_of, replaced_when_complete
from common.data.readers.parquet_reader import parquet_batches
from common.data.readers.records import Record, read_records
from common.data.report import Bad, BadFile, Report
from common.data.self_play import is_prompt


@dataclass
class Validation:
    """What is known about a file.

    Args:
        report: Rows read and bad; duplicates are counted, and noted, but are not bad.
        sample: The first good rows, as a trainer reads them.
        refused: Why a row is bad or a duplicate, by its place.
    """

    report: Report = field(default_factory=Report)
    sample: list[dict[str, Any]] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)


def validate(
    source: Source,
    algorithm: str,
    against: Path | None = None,
    sample: int = 20_000,
    allow_loss: bool = False,
    renderer: Renderer | None = None,
    overlap: Contamination | None = None,
) -> Validation:
    """Check every row of a file.

    Rows of parquet files are checked as they are, since the trainer reads them so; rows of other files as
    ``convert`` would make them.

    Args:
        source: The file; its names of columns count for files that are not parquet.
        algorithm: One of ``rows.ALGORITHMS``.
        against: Another file (training against validation): rows whose prompt is in both are bad.
        sample: Good rows to keep for measuring.
        allow_loss: See ``convert.Options``.
        renderer: Rows that its chat template cannot show are bad.
        overlap: Rows that hold a question of its benchmarks are bad.

    Raises:
        DataError: If a file cannot be read.
    """
    found = Validation()
    report = found.report
    elsewhere = _prompts(against, algorithm) if against else {}
    first_place: dict[int, int] = {}
    for record in source.records(report.say):
        report.read += 1
        row, problem = row_of(record, source, algorithm, report, allow_loss)
        problem = problem or problem_of(algorithm, row)
        if problem is None and elsewhere:
            place = elsewhere.get(prompt_key(question_of(row)))
            problem = f"prompt: is in {against.name} too, at {place}" if place else None
        if problem is None and renderer:
            problem = why_not_shown(renderer, algorithm, row)
        if overlap:  # every row counts for the report, also one that is bad for another reason
            held = overlap.look(row if row is not None else record.row, record.place)
            problem = problem or held
        if problem:
            report.add_bad(Bad(source.path, record.place, problem, record.row))
            found.refused[record.place] = problem
            continue
        key = row_key(algorithm, row)
        before = first_place.setdefault(key, record.place)
        if before != record.place:
            report.duplicates += 1
            found.refused[record.place] = f"duplicate of {before}"
        if algorithm == "ppo" and checks.missing_truth(row):
            report.notes["no ground truth: only a reward model or a judge can score these"] += 1
        report.prompts += algorithm == "gspo" and is_prompt(row)
        if len(found.sample) < sample:
            found.sample.append(row)
    if not report.read:
        raise DataError(f"{source.path}: has no rows")
    if algorithm == "gspo" and found.sample and not report.prompts:
        raise DataError(
            f"{source.path}: all rows are pairs and none is a prompt to answer; convert with --self-play, or use dpo"
        )
    return found


def row_of(
    record: Record, source: Source, algorithm: str, report: Report | None = None, allow_loss: bool = False
) -> tuple[dict[str, Any] | None, str | None]:
    """A row as the trainer reads it, or what is wrong with it."""
    if record.row is None:
        return None, record.problem
    if kind_of(source.path)[0] == ".parquet":
        return {name: rows.loaded(value) for name, value in record.row.items()}, None
    try:
        options = rows.RowOptions(
            algorithm, source.data_source or data_set_name(source.path), source.system, allow_loss=allow_loss
        )
        return row_from(record.row, source, options, record.place, report), None
    except RowError as error:
        return None, str(error)


def problem_of(algorithm: str, row: dict[str, Any]) -> str | None:
    """What makes a row useless for an algorithm, or None."""
    problem = checks.structure(algorithm, row) or checks.quality(algorithm, row)
    scored = algorithm == "grpo" or (algorithm == "gspo" and is_prompt(row))
    if problem is None and scored and row["reward_model"].get("style") != "model":
        problem = checks.missing_truth(row)
    return problem


def _prompts(path: Path, algorithm: str) -> dict[int, int]:
    """Place of each prompt of a file; rows that cannot be read are left out."""
    source = Source(path)
    places = {}
    for record in read_records(path):
        row, problem = row_of(record, source, algorithm)
        if problem is None and checks.structure(algorithm, row) is None:
            places.setdefault(prompt_key(question_of(row)), record.place)
    return places


def write_good(source: Path, refused: dict[int, str], report: Report) -> None:
    """Write the good rows of a parquet file, unchanged, to ``<name>.good.parquet`` and the others next to it.

    Args:
        source: The file that was validated.
        refused: From ``Validation.refused``.
        report: Where the files written are noted.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = source.with_name(f"{source.stem}.good.parquet")
    bad_file = source.with_name(f"{source.stem}.bad.jsonl")
    with replaced_when_complete(target, bad_file) as partials, BadFile(partials[1]) as bad_rows:
        schema = pq.read_schema(source)
        with pq.ParquetWriter(partials[0], schema, compression="zstd") as out:
            place = 0
            for batch in parquet_batches(source):
                places = range(place + 1, place + batch.num_rows + 1)
                out.write_batch(batch.filter(pa.array([number not in refused for number in places])).cast(schema))
                for number in places:
                    if number in refused:
                        row = batch.slice(number - place - 1, 1).to_pylist()[0]
                        bad_rows.write(Bad(source, number, refused[number], row))
                place += batch.num_rows
        report.written = {target: place - len(refused)}
        if bad_rows.rows:
            report.written[bad_file] = bad_rows.rows
