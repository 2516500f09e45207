"""Checkpoints: what is saved, what the run had reached there, and the line that tries it."""

from __future__ import annotations

import os
import shlex
from html import escape

from common.files import ROOT
from common.metrics.names import BY_NAME, HEADLINES
from monitor.change_token import NO_RUN, Asked
from monitor.checkpoints import Saved, saved_in, signature
from monitor.columns import Columns
from monitor.i18n import Words
from monitor.plain import carried, plain
from monitor.tables import moment, note, number, table
from monitor.tabs import Page, Tab, copyable


def token(asked: Asked) -> str:
    """Changes with the files of the checkpoints, and with the step."""
    row = asked.row
    if row is None:
        return NO_RUN
    return f"{signature(row.path)}|{row.step}" if row.kind == "run" else ""


def build(page: Page) -> Tab:
    """Lays out the tab."""
    w = page.words
    view = copyable()

    def fill(run):
        """Inputs: top.run. Outputs: view."""
        row = page.monitor.row(run)
        if row is None:
            return note(w("no_run"))
        saved = saved_in(row.path) if row.kind == "run" else []
        if not saved:
            return note(w("no_checkpoints"))
        metrics = page.monitor.metrics(run, 1.0)
        return _table(saved, metrics.columns if metrics else Columns(), w)

    return Tab(fill, [page.run], [view])


def _table(saved: list[Saved], columns: Columns, w: Words) -> str:
    name = next((one.name for one in HEADLINES if len(columns.series(one.name)[0])), "")
    label = w.metric(name) if name else w("metric")
    heads = [(w("step"), "number"), (label, "number"), (w("size"), "number wide"), (w("written"), "wide")]
    heads += [(w("state"), ""), (w("try_it"), "wrap")]
    rows = [_row(one, columns, name, w) for one in saved]
    return table(heads, rows)


def _row(one: Saved, columns: Columns, name: str, w: Words) -> list[str]:
    path = one.path.relative_to(ROOT) if one.path.is_relative_to(ROOT) else one.path
    step = w("exported_model") if one.step is None else str(one.step)
    command = f"./test.sh --model_path {_quoted(str(path))}"
    if one.problems:
        why = escape(plain("; ".join(one.problems)))
        state = f'<span class="state failed" title="{why}">{escape(w("not_whole"))}</span>'
    else:
        label = w("resumes_here") if one.latest else w("whole")
        state = f'<span class="state running_well">{escape(label)}</span>'
    return [
        escape(step),
        _value(one.step, columns, name),
        _size(one.size),
        moment(one.written),
        state,
        _copy(_path(str(one.path)), w("copy_path")) + _copy(command, w("copy")) + f"<code>{escape(command)}</code>",
    ]


def _quoted(path: str) -> str:
    r"""A path as bash reads it; what the page cannot show is written as bytes in ``$'\xff'``."""
    if plain(path) == path:
        return shlex.quote(path)
    letters = (chr(one) if 32 <= one < 127 and one not in b"'\\" else f"\\x{one:02x}" for one in os.fsencode(path))
    return f"$'{''.join(letters)}'"


def _path(path: str) -> str:
    return path if carried(path) == path else _quoted(path)


def _value(step: int | None, columns: Columns, name: str) -> str:
    """The metric at a step, or the last before it."""
    if not name:
        return "–"
    steps, values = columns.series(name)
    place = len(steps) if step is None else int((steps <= step).sum())
    return number(float(values[place - 1]), BY_NAME[name].number) if place else "–"


def _copy(text: str, label: str) -> str:
    return f'<button class="copy" data-copy="{escape(text)}">{escape(label)}</button>'


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""
