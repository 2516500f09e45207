"""The sheet that answers the question: accuracy with its interval, groups, comparison, speed, settings, charts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.evaluation.report.excel_text import cell_text
from common.evaluation.report.report import Report, plain_text
from common.evaluation.report.results import GroupScore

if TYPE_CHECKING:
    from xlsxwriter import Workbook
    from xlsxwriter.worksheet import Worksheet

CHART_GROUPS = 20  # bars; the table holds all
BINS = 10  # of the lengths
CHART_ROWS = 16  # that the charts cover
COLOURS = ("#4472C4", "#A5A5A5", "#ED7D31", "#70AD47", "#FFC000", "#7030A0")
FAINT_LINES = {"visible": True, "line": {"color": "#E0E0E0"}}


def write_summary(book: Workbook, report: Report, notes: list[str]) -> None:
    """Write the sheet, and make it the one that is seen first."""
    sheet = _Summary(book, report)
    sheet.title()
    table = sheet.scores()
    sheet.comparisons()
    place = sheet.row + 1
    sheet.row += CHART_ROWS + 1
    sheet.speed()
    lengths = sheet.lengths()
    sheet.settings(notes)
    sheet.charts(place, table, lengths)
    sheet.sheet.activate()
    sheet.sheet.set_first_sheet()


class _Summary:
    def __init__(self, book: Workbook, report: Report):
        self.book, self.report, self.row = book, report, 0
        self.bars_from = 0  # column of the lengths of the error bars
        self.sheet: Worksheet = book.add_worksheet("Summary")
        self.sheet.hide_gridlines(2)
        print_on_one_width(self.sheet)
        self.sheet.set_column(0, 0, 30)
        self.sheet.set_column(1, 1, 22)
        self.sheet.set_column(2, 20, 12)
        self.sheet.set_column(11, 11, 20)
        plain = {"font_size": 10, "valign": "top"}
        self.styles = {
            "title": book.add_format({"bold": True, "font_size": 16}),
            "head": book.add_format({"bold": True, "font_size": 12, "font_color": "#1F3864"}),
            "column": book.add_format(
                {**plain, "bold": True, "bg_color": "#D9E1F2", "bottom": 1, "text_wrap": True, "align": "center"}
            ),
            "text": book.add_format(plain),
            "strong": book.add_format({**plain, "bold": True}),
            "percent": book.add_format({**plain, "num_format": "0.0%"}),
            "number": book.add_format({**plain, "num_format": "#,##0"}),
            "decimal": book.add_format({**plain, "num_format": "#,##0.0"}),
            "score": book.add_format({**plain, "num_format": "0.0000"}),
            "faint": book.add_format({**plain, "num_format": "0.0000", "font_color": "#BFBFBF"}),
            "tiny": book.add_format({**plain, "num_format": "0.0E+00"}),
            "points": book.add_format({**plain, "num_format": "+0.0%;-0.0%;0.0%"}),
            "signed": book.add_format({**plain, "num_format": "+0.0000;-0.0000;0"}),
            "p": book.add_format({**plain, "num_format": "0.0000"}),
        }

    def put(self, column: int, value: Any, style: str = "text") -> None:
        if value is None:
            return
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.sheet.write_number(self.row, column, value, self.styles[style])
        else:
            self.sheet.write_string(self.row, column, cell_text(plain_text(value))[0], self.styles[style])

    def heading(self, text: str, columns: list[str]) -> None:
        self.row += 1
        self.put(0, text, "head")
        self.row += 1
        if columns:
            self.sheet.set_row(self.row, 30)
            for index, name in enumerate(columns):
                self.put(index, name, "column")
            self.row += 1

    def title(self) -> None:
        self.put(0, f"Evaluation of {self.report.models[0].name}", "title")
        self.row += 1
        overall = self.report.summaries[0].overall
        if overall.accuracy is not None:
            self.put(0, sentence(overall, self.report.binary), "strong")
        else:
            self.put(0, f"{overall.asked:,} of {overall.rows:,} rows answered, not scored", "strong")
        self.row += 1
        for comparison in self.report.comparisons:
            text = f"Against {comparison.other}: {comparison.better:,} better, {comparison.worse:,} worse, "
            self.put(0, f"{text}p = {comparison.p_value:.3g}: {comparison.verdict}", "strong")
            self.row += 1

    def scores(self) -> tuple[int, int]:
        """The table of all groups; returns its first row and the number of groups of a model that a chart shows."""
        report = self.report
        what = "Accuracy" if report.binary else "Mean value"
        percent = "percent" if report.binary else "score"
        first = report.summaries[0].overall
        ks = list(first.pass_at)
        columns = ["Model", "Group", "Rows", "Answered", "Failed"]
        if report.scored:
            columns += ["Scored", what, "95% from", "95% to", "Mean score", *(f"pass@{k}" for k in ks)]
            columns += [f"Majority of {report.n}"] if report.n > 1 else []
        columns += ["Mean tokens", "Cut at limit"]
        self.bars_from = len(columns) + 1
        columns += ["", "error bar +", "error bar -"] if report.scored else []
        self.heading("Accuracy" if report.scored else "Answers", columns)
        start = self.row
        for name, group in self._lines():
            values: list[tuple[Any, str]] = [(name, "text"), (group[0], "text")]
            score = group[1]
            values += [(score.rows, "number"), (score.asked, "number"), (score.failed, "number")]
            if report.scored:
                values += [(score.scored, "number"), (score.accuracy, percent), (score.low, percent)]
                values += [(score.high, percent), (score.score, "score")]
                values += [(score.pass_at.get(k), percent) for k in ks]
                values += [(score.majority, percent)] if report.n > 1 else []
            values += [(score.length, "decimal"), (score.cut, "percent")]
            if score.accuracy is not None:  # the chart's error bars; Excel wants distances in cells
                bars = score.high - score.accuracy, score.accuracy - score.low
                values += [(None, "text"), *((bar, "faint") for bar in bars)]
            for index, (value, style) in enumerate(values):
                self.put(index, value, style)
            self.row += 1
        return start, len(self._groups(0))

    def _groups(self, model: int) -> list[tuple[str, GroupScore]]:
        summary = self.report.summaries[model]
        found = [("all", summary.overall)]
        for column, groups in summary.groups.items():
            if len(groups) > 1:  # one alone is the same as all
                found += [(f"{column}: {group.name}", group) for group in groups]
        return found

    def _lines(self) -> list[tuple[str, tuple[str, GroupScore]]]:
        return [(model.name, group) for index, model in enumerate(self.report.models) for group in self._groups(index)]

    def comparisons(self) -> None:
        if not self.report.comparisons or not self.report.scored:
            return
        points = "points" if self.report.binary else "signed"
        names = ["Model", "Against", "Pairs", "Better", "Worse", "Same", "Difference", "95% from", "95% to", "p value"]
        self.heading("Comparison, row by row", [*names, "Test", "Verdict"])
        for one in self.report.comparisons:
            counts = (one.pairs, one.better, one.worse, one.pairs - len(one.changes))
            values = [(one.model, "text"), (one.other, "text"), *((count, "number") for count in counts)]
            values += [(one.difference, points), (one.low, points), (one.high, points)]
            values.append((one.p_value, "p" if one.p_value >= 1e-4 else "tiny"))
            for index, (value, style) in enumerate([*values, (one.test, "text"), (one.verdict, "strong")]):
                self.put(index, value, style)
            self.row += 1

    def speed(self) -> None:
        self.heading("Speed", ["Model", "Engine", "Tokens", "Seconds", "Tokens / s"])
        for model in self.report.models:
            rate = model.tokens / model.seconds if model.seconds else None
            values = [(model.name, "text"), (model.engine, "text"), (model.tokens, "number")]
            for index, (value, style) in enumerate([*values, (model.seconds, "decimal"), (rate, "decimal")]):
                self.put(index, value, style)
            self.row += 1

    def lengths(self) -> tuple[int, int]:
        """The table of answer lengths that its chart draws; returns first row and number of bins."""
        models = self.report.models
        lengths = [[a.tokens for a in model.answers.values() if a.error is None] for model in models]
        longest = max((max(some, default=0) for some in lengths), default=0)
        size = max(1, -(-(longest + 1) // BINS))
        self.heading("Response length", ["Tokens", "", *(f"Responses [{model.name}]" for model in models)])
        start = self.row
        for low in range(0, longest + 1, size):
            self.put(0, f"{low:,}" if size == 1 else f"{low:,}-{low + size - 1:,}")
            for index, some in enumerate(lengths):
                self.put(index + 2, sum(low <= length < low + size for length in some), "number")
            self.row += 1
        return start, self.row - start

    def settings(self, notes: list[str]) -> None:
        self.heading("Settings", [])
        for name, value in self.report.settings.items():
            self.put(0, name, "strong")
            self.put(1, plain_text(value))
            self.row += 1
        if notes:
            self.heading("Notes", [])
            for note in notes:
                self.put(0, note)
                self.row += 1

    def charts(self, place: int, table: tuple[int, int], lengths: tuple[int, int]) -> None:
        """Put the charts where room was left for them."""
        shown = [self._accuracy_chart(*table)] if self.report.scored else []
        shown.append(self._length_chart(*lengths))
        for index, chart in enumerate(shown):
            chart.set_size({"width": 600, "height": 300})
            self.sheet.insert_chart(place, 5 * index, chart, {"object_position": 2})

    def _accuracy_chart(self, start: int, groups: int) -> Any:
        """Bars with their confidence intervals, one series a model."""
        shown = min(groups, CHART_GROUPS)
        chart = self.book.add_chart({"type": "column"})
        for index, model in enumerate(self.report.models):
            first = start + index * groups
            last = first + shown - 1
            plus, minus = (["Summary", first, self.bars_from + i, last, self.bars_from + i] for i in (0, 1))
            bars = {"type": "custom", "plus_values": _area(*plus), "minus_values": _area(*minus)}
            chart.add_series(
                {
                    "name": cell_text(model.name)[0],
                    "categories": ["Summary", start, 1, start + shown - 1, 1],
                    "values": ["Summary", first, 6, last, 6],
                    "y_error_bars": {**bars, "line": {"color": "#404040"}},
                    "fill": {"color": COLOURS[index % len(COLOURS)]},
                    "data_labels": {"value": True, "num_format": "0%", "position": "inside_base"}
                    if self.report.binary
                    else {},
                    "gap": 80,
                }
            )
        what = "Accuracy" if self.report.binary else "Mean value"
        chart.set_title({"name": f"{what}, with 95% confidence interval", "name_font": {"size": 12}})
        if self.report.binary:
            chart.set_y_axis({"min": 0, "max": 1, "num_format": "0%", "major_gridlines": FAINT_LINES})
        chart.set_legend({"position": "bottom"} if len(self.report.models) > 1 else {"none": True})
        return chart

    def _length_chart(self, start: int, bins: int) -> Any:
        chart = self.book.add_chart({"type": "column"})
        for index, model in enumerate(self.report.models):
            chart.add_series(
                {
                    "name": cell_text(model.name)[0],
                    "categories": ["Summary", start, 0, start + bins - 1, 0],
                    "values": ["Summary", start, index + 2, start + bins - 1, index + 2],
                    "fill": {"color": COLOURS[index % len(COLOURS)]},
                    "gap": 20,
                }
            )
        chart.set_y_axis({"major_gridlines": FAINT_LINES})
        chart.set_title({"name": "Response length, tokens", "name_font": {"size": 12}})
        chart.set_legend({"position": "bottom"} if len(self.report.models) > 1 else {"none": True})
        return chart


def _area(sheet: str, row: int, column: int, last_row: int, last_column: int) -> str:
    from xlsxwriter.utility import xl_range_abs

    return f"={sheet}!{xl_range_abs(row, column, last_row, last_column)}"


def print_on_one_width(sheet: Worksheet) -> None:
    """All columns on one page when it is printed."""
    sheet.set_landscape()
    sheet.set_paper(8)  # A3
    sheet.fit_to_pages(1, 0)


def sentence(group: GroupScore, binary: bool) -> str:
    """The result in one line."""
    if binary:
        text = f"Accuracy {group.accuracy:.1%}, 95% confidence {group.low:.1%} to {group.high:.1%}"
    else:
        text = f"Mean value {group.accuracy:.4f}, 95% confidence {group.low:.4f} to {group.high:.4f}"
    return f"{text}, on {group.scored:,} of {group.rows:,} rows"
