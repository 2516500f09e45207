"""The workbook of a suite: an overview with scores, comparisons and published ones, and a sheet for each set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.evaluation.report.excel import open_workbook, write_results
from common.evaluation.report.excel_text import cell_text
from common.evaluation.report.report import plain_text
from common.evaluation.report.summary_sheet import print_on_one_width
from common.evaluation.suites.published import PUBLISHED

if TYPE_CHECKING:
    from xlsxwriter import Workbook

    from common.evaluation.suites.run import SetResult

HEADER_HEIGHT = 28.0  # points, two lines
NUMBER_WIDTH = 12  # characters
LONGEST_NAME = 31  # of a sheet; three are for a number behind it
SCORES = ("Set", "Model", "Metric", "Score", "95% from", "95% to", "Majority", "pass@n", "Rows", "Answers a prompt")
SCORES += ("Mean tokens", "Cut", "Failed")
COMPARED = ("Set", "Model", "Against", "Difference", "95% from", "95% to", "Better", "Worse", "p", "Verdict")
SEEN = ("Set", "Questions", "Touched", "Held", "Too short", "Score", "Score without held ones")
QUOTED = ("Set", "Model", "Score", "How", "Source")
FORMATS = {
    "text": {},
    "title": {"bold": True, "font_size": 16},
    "head": {"bold": True, "font_size": 12, "font_color": "#1F3864"},
    "column": {"bold": True, "bg_color": "#D9E1F2", "bottom": 1, "text_wrap": True},
    "right": {"bold": True, "bg_color": "#D9E1F2", "bottom": 1, "text_wrap": True, "align": "right"},
    "after": {"indent": 1, "align": "left"},  # a text behind a number
    "percent": {"num_format": "0.0%"},
    "points": {"num_format": "+0.0%;-0.0%;0.0%"},
    "number": {"num_format": "#,##0"},
    "p": {"num_format": "[<0.0001]0.0E+00;0.0000"},
}


def write_workbook(results: Sequence[SetResult], path: Path) -> None:
    """Write the file.

    Raises:
        OSError: If the disk is full.
    """
    with open_workbook(path) as book:
        notes = []
        for result in results:
            cut = write_results(book, result.report, _sheet_name(result.bench.name, book))
            notes += [f"{result.bench.name}: {note}" for note in result.loaded.notes]
            if cut:
                notes.append(f"{result.bench.name}: {cut:,} cells were cut at Excel's 32,767 characters")
        _Overview(book).write(results, notes)


def _sheet_name(name: str, book: Workbook) -> str:
    """A name that Excel takes: at most 31 characters, some of them not, each once whatever its case."""
    name = re.sub(r"[\[\]:*?/\\]", "-", name).strip("'")
    taken = {sheet.get_name().casefold() for sheet in book.worksheets()}
    free = (name[:25] + end for end in (name[25 : LONGEST_NAME - 3], *(f" ({number})" for number in range(2, 10_000))))
    return next(one for one in free if one.casefold() not in taken)


class _Overview:
    """The sheet that is seen first."""

    def __init__(self, book: Workbook):
        self.sheet, self.row = book.add_worksheet("Overview"), 0
        self.sheet.hide_gridlines(2)
        print_on_one_width(self.sheet)
        self.sheet.set_column(0, 0, 34)
        self.sheet.set_column(1, 2, 30)
        self.sheet.set_column(3, 20, NUMBER_WIDTH)
        self.formats = {
            name: book.add_format({"font_size": 10, "valign": "top", **extra}) for name, extra in FORMATS.items()
        }

    def write(self, results: Sequence[SetResult], notes: Sequence[str]) -> None:
        self._line("Benchmarks of " + results[0].report.models[0].name, style="title")
        self._table("Scores", SCORES, [row for result in results for row in _scores(result)])
        compared = [row for result in results for row in _compared(result)]
        if compared:
            self._table("Comparison", COMPARED, compared)
        seen = [_seen(result) for result in results if result.overlap is not None]
        if seen:
            self._table("Questions in the run's training data (runs of 13 words; held: half of them)", SEEN, seen)
        quoted = [row for result in results for row in _quoted(result)]
        if quoted:
            self._table("Published scores, with other prompts and graders: points apart mean nothing", QUOTED, quoted)
        for result in results:
            self._table(
                f"Settings of {result.bench.title}", (), [[(k, "text"), (str(v), "text")] for k, v in _facts(result)]
            )
        if notes:
            self._table("Notes", (), [[(note, "text")] for note in notes])
        self.sheet.activate()
        self.sheet.set_first_sheet()

    def _table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[tuple[Any, str]]]) -> None:
        self.row += 1
        self._line(title, style="head")
        if columns:
            numbers = [style not in ("text", "after") for _, style in rows[0]] if rows else [False] * len(columns)
            if any(is_number and len(name) > NUMBER_WIDTH for name, is_number in zip(columns, numbers, strict=True)):
                self.sheet.set_row(self.row, HEADER_HEIGHT)
            styles = ("right" if is_number else "column" for is_number in numbers)
            self._cells(list(zip(columns, styles, strict=True)))
        for row in rows:
            self._cells(row)

    def _line(self, text: str, style: str) -> None:
        self._cells([(text, style)])

    def _cells(self, row: Sequence[tuple[Any, str]]) -> None:
        for column, (value, style) in enumerate(row):
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.sheet.write_number(self.row, column, value, self.formats[style])
            elif value is not None:
                self.sheet.write_string(self.row, column, cell_text(plain_text(value))[0], self.formats[style])
        self.row += 1


def _scores(result: SetResult) -> list[list[tuple[Any, str]]]:
    rows = []
    for summary in result.report.summaries:
        one, n = summary.overall, result.settings.n
        rates = (one.accuracy, one.low, one.high, one.majority, one.pass_at.get(n) if n > 1 else None)
        row = [(result.bench.title, "text"), (summary.name, "text"), (metric_of(result), "text")]
        row += [(value, "percent") for value in rates]
        row += [
            (one.rows, "number"),
            (n, "number"),
            (one.length, "number"),
            (one.cut, "percent"),
            (one.failed, "number"),
        ]
        rows.append(row)
    return rows


def metric_of(result: SetResult) -> str:
    """What the score is, for the number of answers that there were."""
    bench, n = result.bench, result.settings.n
    if n == bench.settings.get("n", 1):
        return bench.metric
    if n > 1:
        return f"pass@1 of {n}, pass@{n}" if bench.metric == "pass@1" else f"avg@{n}, maj@{n}"
    return "accuracy" if bench.metric.startswith("avg") else bench.metric


def _compared(result: SetResult) -> list[list[tuple[Any, str]]]:
    return [
        [
            (result.bench.title, "text"),
            (one.model, "text"),
            (one.other, "text"),
            (one.difference, "points"),
            (one.low, "points"),
            (one.high, "points"),
            (one.better, "number"),
            (one.worse, "number"),
            (one.p_value, "p"),
            (one.verdict, "after"),
        ]
        for one in result.report.comparisons
    ]


def _seen(result: SetResult) -> list[tuple[Any, str]]:
    one, score = result.overlap, result.report.summaries[0].overall.accuracy
    counts = (one.questions, len(one.touched), len(one.held), one.short)
    row = [(result.bench.title, "text"), *((count, "number") for count in counts)]
    return [*row, (score, "percent"), (result.clean_score, "percent")]


def _quoted(result: SetResult) -> list[list[tuple[Any, str]]]:
    return [
        [(result.bench.title, "text"), (one.model, "text"), (round(one.score / 100, 4), "percent")]
        + [(one.how, "text"), (one.source, "text")]
        for one in PUBLISHED.get(result.bench.name, ())
    ]


def _facts(result: SetResult) -> list[tuple[str, Any]]:
    engines = ", ".join(dict.fromkeys(model.engine for model in result.report.models))
    return [*result.report.settings.items(), ("engine", engines)]
