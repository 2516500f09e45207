"""Rows to HTML; whatever comes from a run is escaped here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape

from common.metrics.names import BY_NAME
from common.metrics.progress_line import format_duration
from monitor.choices import MAX_WANTED
from monitor.i18n import Words
from monitor.runs import Row

# Column: (text key, class); those of class "wide" are left out on a phone.
RUN_COLUMNS = (
    ("name", "name"),
    ("algorithm", "wide"),
    ("model", "wide"),
    ("state", ""),
    ("step", ""),
    ("value", "number"),
    ("step_time", "number wide"),
    ("eta", "number"),
    ("started", "wide"),
)


def note(text: str) -> str:
    """What is shown in place of nothing."""
    return f'<div class="note">{escape(text)}</div>'


def problem(text: str) -> str:
    """Something is wrong, and the rest continues."""
    return f'<div class="problem">{escape(text)}</div>'


def facts(parts: Iterable[str]) -> str:
    """A line of small facts; the parts are HTML."""
    return f'<div class="facts">{"".join(f"<span>{part}</span>" for part in parts)}</div>'


def table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """A plain table.

    Args:
        heads: Text and class of each column.
        rows: Cells as HTML, already escaped.
        classes: Class of each row, "" for none.
    """
    kinds = [kind for _, kind in heads]
    lines = ['<div class="scroll"><table class="list"><thead><tr>']
    lines += [f'<th class="{kind}">{escape(text)}</th>' for text, kind in heads]
    lines.append("</tr></thead><tbody>")
    for place, cells in enumerate(rows):
        lines.append(f'<tr class="{classes[place]}">' if classes else "<tr>")
        lines += [f'<td class="{kind}">{cell}</td>' for kind, cell in zip(kinds, cells, strict=True)]
        lines.append("</tr>")
    return "".join([*lines, "</tbody></table></div>"])


def state_pill(row: Row, words: Words) -> str:
    """The state with its colour; why it ended is shown on hovering."""
    why = words(f"{row.state}_why") if row.state in ("died", "silent") else row.reason
    return f'<span class="state {row.state}" title="{escape(why)}">{escape(words(row.state))}</span>'


def number(value: float | None, form: str = ".4g") -> str:
    """A number, or a dash."""
    return "–" if value is None else format(value, form)


def duration(seconds: float | None) -> str:
    """A duration as h:mm:ss, or a dash."""
    return "–" if seconds is None else format_duration(seconds)


def moment(seconds: float | None) -> str:
    """A time of day, with the date when it is not today; the clock of the monitor's machine."""
    if not seconds:
        return "–"
    local, today = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M" if local[:3] == today[:3] else "%Y-%m-%d %H:%M", local)


def sort_rows(rows: Iterable[Row], column: str, descending: bool) -> list[Row]:
    """Sorts by a column of the table; runs that have no value there come last."""

    def value(row: Row):
        return {"name": row.id.lower(), "started": row.started or row.updated or None}.get(
            column, getattr(row, column, None)
        )

    have = [row for row in rows if value(row) not in (None, "")]
    have_ids = {row.id for row in have}
    return sorted(have, key=value, reverse=descending) + [row for row in rows if row.id not in have_ids]


def filter_rows(rows: Iterable[Row], text: str, state: str) -> list[Row]:
    """The rows that hold every word of a text and have a state ("" for any)."""
    sought = text[:MAX_WANTED].lower().split()
    return [
        row
        for row in rows
        if (not state or row.state == state)
        and all(word in f"{row.id} {row.algorithm} {row.model} {row.state}".lower() for word in sought)
    ]


def runs_table(rows: Sequence[Row], chosen: str | None, column: str, descending: bool, words: Words) -> str:
    """The table of runs; a head sorts, a row opens the run (data-pick, see assets/table.js)."""
    lines = ['<div class="scroll"><table class="list"><thead><tr>']
    for key, kind in RUN_COLUMNS:
        arrow = (" ↓" if descending else " ↑") if key == column else ""
        kind += " sorted" if arrow else ""
        lines.append(f'<th class="{kind}" data-pick="sort:{key}" tabindex="0">{escape(words(key))}{arrow}</th>')
    lines.append("</tr></thead><tbody>")
    for row in rows:
        mark = ' class="chosen"' if row.id == chosen else ""
        lines.append(f'<tr{mark} data-pick="run:{escape(row.id)}" tabindex="0">')
        cells = zip(RUN_COLUMNS, _cells(row, words), strict=True)
        lines += [f'<td class="{kind}">{cell}</td>' for (_, kind), cell in cells]
        lines.append("</tr>")
    return "".join([*lines, "</tbody></table></div>"])


def _whole(text: str) -> str:
    """A text that a narrow column may cut, and that is whole on hovering."""
    return f'<span title="{escape(text)}">{escape(text)}</span>' if text else "–"


def _cells(row: Row, words: Words) -> list[str]:
    step = number(row.step, "d")
    if row.total and row.step is not None and row.step <= row.total:
        share = min(100, 100 * row.step // row.total)
        step = f'{row.step}<small>/{row.total}</small><span class="bar"><i style="width:{share}%"></i></span>'
    value = "–"
    if row.value is not None:
        shown = format(row.value, BY_NAME[row.metric].number)
        value = f'<span title="{escape(words.metric(row.metric))}">{escape(shown)}</span>'
    return [
        _whole(row.id),
        _whole(row.algorithm),
        _whole(row.model),
        state_pill(row, words),
        step,
        value,
        "–" if row.step_time is None else f"{row.step_time:.1f} s",
        duration(row.eta),
        moment(row.started),
    ]
