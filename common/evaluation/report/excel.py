"""The results as a workbook: results, summary with charts, and what changed between models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.evaluation.report.excel_text import cell_text, width
from common.evaluation.report.report import (
    BETTER,
    NUMBER,
    RIGHT,
    TEXT,
    VERDICT,
    WORSE,
    WRONG,
    Column,
    Report,
    plain_text,
)
from common.evaluation.report.summary_sheet import print_on_one_width, write_summary

if TYPE_CHECKING:
    from xlsxwriter import Workbook
    from xlsxwriter.format import Format
    from xlsxwriter.worksheet import Worksheet

MAX_ROWS = 1_048_575  # rows of a sheet of Excel behind the header
LINE_HEIGHT = 15.0  # points
MAX_LINES = 8  # of a row; longer texts are read in the cell
WIDE, NARROW = 48, (8, 24)  # characters
GREEN = {"bg_color": "#C6EFCE", "font_color": "#006100"}
RED = {"bg_color": "#FFC7CE", "font_color": "#9C0006"}


def write_excel(report: Report, path: Path) -> None:
    """Write the workbook, row by row so that memory stays small.

    Args:
        report: The evaluation.
        path: File to write.

    Raises:
        OSError: If the disk is full.
    """
    with open_workbook(path) as book:
        cut = write_results(book, report)
        cut += _write_changes(book, report) if report.comparisons and report.scored else 0
        notes = list(report.notes)
        if cut:
            notes.append(f"{cut:,} cells were cut at Excel's 32,767 characters; write to .jsonl for whole texts")
        write_summary(book, report, notes)


@contextmanager
def open_workbook(path: Path) -> Iterator[Workbook]:
    """A new workbook, written row by row so that memory stays small; no text of an answer becomes a formula or a link.

    Raises:
        OSError: At the end, if the disk is full.
    """
    import xlsxwriter

    options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    book = xlsxwriter.Workbook(str(path), options)
    try:
        yield book
    finally:
        try:
            book.close()
        except xlsxwriter.exceptions.FileCreateError as error:  # is no OSError there
            raise OSError(*error.args[0].args) from error


class Sheet:
    """A sheet with a header, wrapped text, filters and coloured verdicts.

    Args:
        book: The workbook.
        name: Of the sheet.
        columns: Its columns.
    """

    def __init__(self, book: Workbook, name: str, columns: list[Column]):
        self.sheet: Worksheet = book.add_worksheet(name)
        self.columns, self.row, self.cut = columns, 0, 0
        top = {"valign": "top", "font_size": 10}
        self.wrapped: Format = book.add_format({**top, "text_wrap": True})
        self.number: Format = book.add_format({**top, "align": "center"})
        self.named: Format = book.add_format({**top, "align": "left"})  # numbers that are names
        header = book.add_format({**top, "bold": True, "text_wrap": True, "bg_color": "#D9E1F2", "bottom": 1})
        self.good, self.bad = book.add_format(GREEN), book.add_format(RED)
        self.sheet.set_row(0, 2 * LINE_HEIGHT)
        self.widths = [_width(column) for column in columns]
        for index, (column, size) in enumerate(zip(columns, self.widths, strict=True)):
            self.sheet.set_column(index, index, size)
            self.sheet.write_string(0, index, cell_text(column.name)[0], header)
        self.sheet.freeze_panes(1, 1)
        self.sheet.repeat_rows(0)
        print_on_one_width(self.sheet)

    def add(self, values: list[Any]) -> None:
        """Append a row."""
        self.row += 1
        lines, texts = 1, []
        for value, column, size in zip(values, self.columns, self.widths, strict=True):
            if value is None or isinstance(value, int | float) and not isinstance(value, bool):
                texts.append(None)
                continue
            text, was_cut = cell_text(plain_text(value))
            self.cut += was_cut
            texts.append(text)
            if column.kind == TEXT and lines < MAX_LINES:
                lines = max(lines, _lines(text, size))
        self.sheet.set_row(self.row, LINE_HEIGHT * min(lines, MAX_LINES))  # before its cells: they are streamed
        for index, (value, text) in enumerate(zip(values, texts, strict=True)):
            if text is not None:
                self.sheet.write_string(self.row, index, text, self.wrapped)
            elif value is not None:
                self._number(index, value)

    def _number(self, index: int, value: float) -> None:
        if math.isfinite(value) and abs(value) < 1e15:
            style = self.named if self.columns[index].kind == TEXT else self.number
            self.sheet.write_number(self.row, index, value, style)
        else:  # Excel has neither infinity nor more than 15 digits
            self.sheet.write_string(self.row, index, str(value), self.wrapped)

    def finish(self) -> int:
        """Put filters and colours over the rows; returns how many cells were cut."""
        last = max(self.row, 1)
        self.sheet.autofilter(0, 0, last, len(self.columns) - 1)
        for index, column in enumerate(self.columns):
            if column.kind == VERDICT:
                for word, style in ((RIGHT, self.good), (BETTER, self.good), (WRONG, self.bad), (WORSE, self.bad)):
                    rule = {"type": "cell", "criteria": "==", "value": f'"{word}"', "format": style}
                    self.sheet.conditional_format(1, index, last, index, rule)
        return self.cut


def write_results(book: Workbook, report: Report, name: str = "Results") -> int:
    """Write a sheet with every answer, several where one is too short; returns how many cells were cut."""
    columns = report.columns()
    sheet, cut, number = Sheet(book, name, columns), 0, 1
    for row in report.rows():
        if sheet.row == MAX_ROWS:
            cut += sheet.finish()
            number += 1
            sheet = Sheet(book, f"{name} {number}", columns)
        sheet.add(row)
    return cut + sheet.finish()


def _write_changes(book: Workbook, report: Report) -> int:
    """A row for each question whose value differs between the tested model and another one."""
    tested = report.models[0]
    columns = [Column("id"), Column("against"), Column("change", VERDICT), Column("difference", NUMBER)]
    columns += [Column("prompt", wide=True), Column("ground_truth")]
    columns += [Column(f"response [{tested.name}]", wide=True), Column("response of the other", wide=True)]
    sheet = Sheet(book, "Changes", columns)
    for comparison, other in zip(report.comparisons, report.models[1:], strict=True):
        for row, change in sorted(comparison.changes.items(), key=lambda item: (item[1] > 0, item[0])):
            if sheet.row == MAX_ROWS:
                return sheet.finish()
            question = report.questions[row]
            texts = [_texts(model, row, report.n) for model in (tested, other)]
            verdict = BETTER if change > 0 else WORSE
            sheet.add([question.id, other.name, verdict, change, question.prompt, question.ground_truth, *texts])
    return sheet.finish()


def _texts(model: Any, row: int, n: int) -> str:
    answers = [answer.text for sample in range(n) if (answer := model.answers.get((row, sample)))]
    return answers[0] if len(answers) == 1 else "\n\n".join(f"{i}: {text}" for i, text in enumerate(answers, 1))


def _width(column: Column) -> int:
    """Characters; a heading of two words may take two lines."""
    if column.wide:
        return WIDE
    longest = max(map(width, column.name.split(" "))) if column.kind != TEXT else width(column.name)
    return min(max(longest + 4, NARROW[0]), NARROW[1])


def _lines(text: str, size: int) -> int:
    """Lines that a wrapped text takes in a column."""
    if "\n" not in text:
        return -(-width(text) // size) or 1
    return sum(max(1, -(-width(line) // size)) for line in text.split("\n", MAX_LINES)[:MAX_LINES])
