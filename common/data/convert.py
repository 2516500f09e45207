"""Files of any known form become one parquet file for a trainer, and perhaps one to validate with."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from common.data import checks, losses, rows, self_play
from common.data.keys import prompt_key, question_of, row_key
from common.data.messages import RowError
from common.data.names import Columns, view_of
from common.data.pairs import is_pair
from common.data.readers.files import DataError, replaced_when_complete
from common.data.readers.record import Say, say_in_log
from common.data.readers.records import BATCH_ROWS, Record, read_records
from common.data.report import Bad, BadFile, Report
from common.data.row_reader import read_example
from common.data.table import Shape, TableWriter, storable


@dataclass(frozen=True)
class Source:
    """One input file.

    Args:
        path: JSON, JSONL, CSV, TSV, parquet or xlsx, or a gz of one.
        columns: Names of its columns, where they are not to be detected.
        data_source: Name of the data set; the file's name by default.
        system: System prompt for rows that have none.
        answer_pattern: See ``rows.RowOptions``.
        encoding: Of a text file that is not UTF-8.
        header: Whether the first row of a table names the columns.
        sheet: Name or number of an xlsx file's sheet.
    """

    path: Path
    columns: Columns = Columns()
    data_source: str | None = None
    system: str = ""
    answer_pattern: str | None = None
    encoding: str | None = None
    header: bool = True
    sheet: str | int | None = None

    def records(self, say: Say = say_in_log) -> Iterator[Record]:
        """The rows of the file; see ``readers.read_records``."""
        return read_records(self.path, self.encoding, self.header, self.sheet, say)


@dataclass(frozen=True)
class Options:
    """What to do with the rows.

    Args:
        algorithm: One of ``rows.ALGORITHMS``; by default what the first row can be used for.
        val_ratio: Share of the rows that go to ``val_target``, from 0 to below 1. Rows with the same prompt go to
            the same side, so that nothing is learnt and validated on.
        val_target: Parquet file for them; next to the target by default.
        seed: Chooses which ones.
        dedup: Leave out rows that were there already (for RL: prompts that were).
        max_rows: Rows to write at most, over all inputs.
        skip_bad: Write the good rows although there are bad ones, which go to ``<target>.bad.jsonl``.
        allow_loss: Leave out known parts that the rows have no place for; else such a row is bad.
        self_play: For gspo: the model answers the prompts of pairs too.
    """

    algorithm: str | None = None
    val_ratio: float = 0.0
    val_target: Path | None = None
    seed: int = 0
    dedup: bool = False
    max_rows: int | None = None
    skip_bad: bool = False
    allow_loss: bool = False
    self_play: bool = False

    def validation_path(self, target: Path) -> Path:
        """Where rows for validation go."""
        if self.val_target:
            return self.val_target
        return target.with_name("val.parquet" if target.stem == "train" else f"{target.stem}.val.parquet")


class BadRows(DataError):
    """Some rows cannot be used and nothing was written; ``report`` tells which and why."""

    def __init__(self, report: Report):
        first = report.bad[0]
        super().__init__(
            f"{report.rows_bad:,} of {report.read:,} rows cannot be used, so nothing was written; the first: "
            f"{first.file}: {first.place}: {first.problem}"
        )
        self.report = report


def convert(
    sources: Sequence[Source], target: Path, options: Options = Options(), progress: Callable[[int], None] | None = None
) -> Report:
    """Convert files; the results appear when they are complete.

    Args:
        sources: What to read, in this order.
        target: Parquet file to write.
        options: See there.
        progress: Called with the number of rows read so far.

    Returns:
        What became of the rows.

    Raises:
        BadRows: If rows cannot be used and ``options.skip_bad`` is not set.
        DataError: If a file cannot be read, or nothing is left to write.
    """
    if not 0 <= options.val_ratio < 1:
        raise DataError(f"--val-ratio {options.val_ratio}: must be at least 0 and below 1")
    if options.algorithm not in (None, *rows.ALGORITHMS):
        raise DataError(f"--algo {options.algorithm}: must be one of {', '.join(rows.ALGORITHMS)}")
    if target.suffix != ".parquet":
        raise DataError(f"{target}: the result is a parquet file; end its name with .parquet")
    if any(target.resolve() == source.path.resolve() for source in sources):
        raise DataError(f"{target}: is also an input; give another name")
    guessed = options.algorithm is None
    options = replace(options, algorithm=options.algorithm or guess_algorithm(sources[0]))
    target.parent.mkdir(parents=True, exist_ok=True)
    shape = Shape()
    while True:
        # A field that turns up late (tool calls in the last row) needs a second reading, now with its place in the
        # schema from the start. A third is never needed: the shape has then seen every row.
        with _no_cycle_search():
            report = _one_reading(sources, target, options, shape, progress)
        if report:
            if guessed:
                report.said.insert(0, f"made for {options.algorithm}, as the first row looks; --algo says otherwise")
            return report


@contextlib.contextmanager
def _no_cycle_search() -> Iterator[None]:
    """Keep Python from searching rows for reference cycles, of which they have none; a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def guess_algorithm(source: Source) -> str:
    """What the first readable row of a file can be used for: dpo for pairs, grpo for verl's RL rows, else sft."""
    for record in islice(source.records(lambda _: None), 100):
        if record.row is None:
            continue
        if isinstance(record.row.get("reward_model"), dict):
            return "grpo"
        try:
            return "dpo" if is_pair(view_of(record.row, source.columns)) else "sft"
        except RowError:
            return "sft"
    return "sft"


def _one_reading(
    sources: Sequence[Source],
    target: Path,
    options: Options,
    shape: Shape,
    progress: Callable[[int], None] | None,
) -> Report | None:
    """Read and write everything; returns None if the shape grew after the first batch was written."""
    outputs = [target, options.validation_path(target)] if options.val_ratio else [target]
    bad_file = target.with_name(f"{target.stem}.bad.jsonl")
    with replaced_when_complete(*outputs, bad_file) as partials, BadFile(partials[-1]) as bad_rows:
        report = Report(on_bad=bad_rows.write if options.skip_bad else None)
        writers: list[TableWriter] = []
        grew = False
        pending: list[list[_Made]] = [[] for _ in outputs]
        for side, made in _made_rows(sources, options, report, progress):
            pending[side].append(made)
            if len(pending[side]) == BATCH_ROWS:
                grew = _write(pending, shape, report, writers, partials, all_sides=False) or grew
        grew = _write(pending, shape, report, writers, partials, all_sides=True) or grew
        for writer in writers:
            writer.close()
        if grew:
            for partial in partials:
                partial.unlink(missing_ok=True)
            return None
        _finish(report, options, outputs, writers)
        if bad_rows.rows:
            report.written[bad_file] = bad_rows.rows
    return report


@dataclass
class _Made:
    """A row to be written and where it came from."""

    file: Path
    record: Record
    row: dict[str, Any]


def _write(
    pending: list[list[_Made]],
    shape: Shape,
    report: Report,
    writers: list[TableWriter],
    partials: list[Path],
    all_sides: bool,
) -> bool:
    """Write full batches (or all that is left); returns whether the shape grew too late."""
    grew = False
    for side, batch in enumerate(pending):
        if not batch or (len(batch) < BATCH_ROWS and not all_sides):
            continue
        try:
            grew = (shape.grow(made.row for made in batch) and bool(writers)) or grew
        except RowError as error:
            raise DataError(f"{batch[0].file}: around line {batch[0].record.place}: {error}") from None
        pending[side] = []
        if not writers:
            shape.grow(made.row for other in pending for made in other)  # those of the other side, still waiting
            writers += [TableWriter(partial, shape.schema()) for partial in partials[: len(pending)]]
        if writers[side].schema == shape.schema():
            _write_batch(writers[side], batch, report)
    return grew


def _write_batch(writer: TableWriter, batch: list[_Made], report: Report) -> None:
    try:
        writer.write([made.row for made in batch])
    except DataError:
        good = []
        for made in batch:
            problem = storable(made.row, writer.schema)
            if problem:
                report.add_bad(Bad(made.file, made.record.place, problem, made.record.row))
            else:
                good.append(made.row)
        writer.write(good)


def _finish(report: Report, options: Options, outputs: list[Path], writers: list[TableWriter]) -> None:
    """Decide whether the result is kept."""
    if report.bad and not options.skip_bad:
        raise BadRows(report)
    if not writers or not writers[0].rows:
        raise DataError(f"{outputs[0]}: no rows to write ({report.read:,} read, {report.rows_bad:,} bad)")
    if options.val_ratio and not writers[1].rows:
        raise DataError(f"--val-ratio {options.val_ratio}: none of {report.read:,} rows fell to validation; raise it")
    if options.algorithm == "gspo" and report.prompts == 0:
        raise DataError(
            f"{outputs[0]}: all rows are pairs and none is a prompt to answer; add --self-play, so that the model "
            "answers the prompts of the pairs too, or train on them with --algo dpo"
        )
    report.written = {path: writer.rows for path, writer in zip(outputs, writers, strict=True)}


def _made_rows(
    sources: Sequence[Source], options: Options, report: Report, progress: Callable[[int], None] | None
) -> Iterator[tuple[int, _Made]]:
    """Yield each good row with the side (0 train, 1 validation) that it goes to."""
    seen: set[int] = set()
    limit = options.max_rows
    made_rows = 0
    for source in sources:
        row_options = rows.RowOptions(
            options.algorithm,
            source.data_source or data_set_name(source.path),
            source.system,
            source.answer_pattern,
            options.allow_loss,
            options.self_play,
        )
        for record in source.records(report.say):
            if limit is not None and made_rows >= limit:
                report.stopped = True
                return
            report.read += 1
            if progress and not report.read % BATCH_ROWS:
                progress(report.read)
            row = _make(record, source, row_options, report, made_rows)
            if row is None:
                continue
            if options.dedup:
                key = row_key(options.algorithm, row)
                if key in seen:
                    report.duplicates += 1
                    continue
                seen.add(key)
            made_rows += 1
            if options.algorithm == "gspo":
                report.prompts += self_play.is_prompt(row)
            side = int(bool(options.val_ratio) and _falls_to_validation(row, options))
            yield side, _Made(source.path, record, row)


def _make(
    record: Record, source: Source, options: rows.RowOptions, report: Report, index: int
) -> dict[str, Any] | None:
    """One row, or None when it is bad, which is then in the report."""
    problem = record.problem
    if record.row is not None:
        try:
            row = row_from(record.row, source, options, index, report)
            problem = checks.structure(options.algorithm, row) or checks.quality(options.algorithm, row)
        except RowError as error:
            problem = str(error)
    if problem:
        report.add_bad(Bad(source.path, record.place, problem, record.row))
        return None
    if options.algorithm in rows.RL and not row["reward_model"]["ground_truth"]:
        report.notes["no ground truth: only a reward model or a judge can score these"] += 1
    return row


def row_from(
    row: dict[str, Any], source: Source, options: rows.RowOptions, index: int, report: Report | None = None
) -> dict[str, Any]:
    """The row that a row of a file becomes; what it was taken for and what is left out goes to the report.

    Raises:
        RowError: If it cannot be used, or a known part would be lost.
    """
    if options.algorithm == "text":
        return _text(row, source, report)
    example = read_example(row, source.columns)
    made = rows.make_row(example, options, index)
    left_out = losses.check(example, options.algorithm, made, options.allow_loss)
    if report:
        for note in left_out:
            report.notes[note] += 1
        for key in example.unused:
            report.notes[f"key {key} of messages is not used"] += 1
        report.take_form(source.path, example)
    return made


def _text(row: dict[str, Any], source: Source, report: Report | None) -> dict[str, Any]:
    column = source.columns.input or "text"
    if report:
        for name in row.keys() - {column}:
            report.notes[f"column {name} is not used"] += 1
    return rows.text_row(row, column)


def data_set_name(path: Path) -> str:
    """A name for the data set in a file: the file's name, or its folder's where that is only a split."""
    stem = path.name.split(".")[0]
    return path.resolve().parent.name if stem in ("train", "test", "val", "validation", "data") else stem


def _falls_to_validation(row: dict[str, Any], options: Options) -> bool:
    return prompt_key(question_of(row), salt=options.seed % 2**64) < options.val_ratio * 2**64
