"""Curves: the metrics of one run, as they come in."""

from __future__ import annotations

import re
from html import escape
from urllib.parse import urlencode

import gradio as gr

from common.metric_names import BY_NAME
from monitor.columns import Columns
from monitor.figures import BESIDE, Look, metric_panel
from monitor.metrics_collector import RunMetrics
from monitor.tables import facts, note, problem, state_pill
from monitor.tabs import Page, Tab, charts
from monitor.words import Words

MAX_PANELS = 60
FIRST_WAIT = 2.0  # seconds that opening a long run may take before it is shown as far as it is read


def build(page: Page) -> Tab:
    """Lays out the tab."""
    w = page.words
    with gr.Row(elem_classes="controls"):
        names = gr.Dropdown([], value=[], multiselect=True, label=w("metrics"), scale=5, min_width=260)
        smoothing = gr.Slider(0, 0.99, 0.6, step=0.01, label=w("smoothing"), scale=2, min_width=170)
        axes = [(w("by_step"), "step"), (w("by_time"), "time")]
        axis = gr.Radio(axes, value="step", label=w("x_axis"), min_width=150)
        flags = gr.CheckboxGroup([(w("log_scale"), "log"), (w("clip"), "clip")], label=w("y_axis"), min_width=220)
        steps = gr.Textbox(label=w("steps"), placeholder=w("steps_hint"), max_lines=1, min_width=120)
    status = gr.HTML("")
    grid = charts()
    known = gr.State("")

    def fill(run, chosen, smoothing, axis, flags, steps, known):
        """Inputs: top.run and the controls. Outputs: status, grid, names, known."""
        metrics = page.monitor.metrics(run, FIRST_WAIT)
        if metrics is None:
            return note(w("no_run")), [], gr.skip(), gr.skip()
        look = Look(smoothing, axis == "time", "log" in flags, "clip" in flags, *step_range(steps))
        with metrics.lock:
            columns = metrics.columns
            key = f"{run}/{len(columns.names())}"
            choices = gr.skip() if key == known else gr.Dropdown(metric_choices(columns, w))
            figures = panels(columns, chosen, look, w)
            return _status(page, run, metrics, chosen, look), figures, choices, key

    inputs = [page.run, names, smoothing, axis, flags, steps, known]
    outputs = [status, grid, names, known]
    changes = [names.change, smoothing.release, axis.input, flags.input, steps.submit, steps.blur]
    gr.on(changes, fill, inputs, outputs, queue=False, show_progress="hidden", trigger_mode="always_last")
    return Tab(fill, inputs, outputs)


def step_range(text: str | None) -> tuple[int | None, int | None]:
    """Reads "100-500", "100-" or "-500"; anything else shows all."""
    match = re.fullmatch(r"\s*(\d{0,15})\s*[-–~:]\s*(\d{0,15})\s*", text or "")
    first, last = match.groups() if match else ("", "")
    return (int(first) if first else None), (int(last) if last else None)


def default_names(columns: Columns) -> list[str]:
    """The metrics of the table that a run has, in the order of the charts; a validation is drawn with its training."""
    found = columns.table_names()
    shown = sorted((name for name in found if BY_NAME[name].group), key=lambda name: BY_NAME[name].group)
    return [name for name in shown if not any(BESIDE.get(other) == name for other in shown)]


def metric_choices(columns: Columns, words: Words) -> list[tuple[str, str]]:
    """The kit's names first, then the trainer's own; label and value."""
    table = columns.table_names()
    return [(f"{words.metric(name)} · {name}", name) for name in table] + [
        (name, name) for name in columns.names() if name not in BY_NAME
    ]


def panels(columns: Columns, chosen: list[str], look: Look, words: Words) -> list[dict]:
    """The figures of the chosen metrics, or of those that matter most."""
    drawn = (metric_panel(columns, name, look, words) for name in (chosen or default_names(columns))[:MAX_PANELS])
    return [figure for figure in drawn if figure]


def _status(page: Page, run: str, metrics: RunMetrics, chosen: list[str], look: Look) -> str:
    w, columns, row = page.words, metrics.columns, page.monitor.row(run)
    head = "".join(problem(error) for error in metrics.errors)
    if columns.last_step < 0:
        progress = metrics.progress()
        return head + note(w("loading", int(100 * progress)) if progress < 1 else w("no_metrics"))
    total = f"/{row.total}" if row and row.total else ""
    query = urlencode([("run", run), *(("metric", name) for name in chosen), ("language", w.language)])
    parts = [state_pill(row, w)] if row else []
    parts += [w("curves_status", f"<b>{columns.last_step}{total}</b>", len(columns.names()))]
    parts += [f'<a href="../csv?{escape(query)}" download>{w("download_csv")}</a>']
    parts += [f'<a href="../png?{escape(query)}" download>{w("download_png")}</a>']
    if metrics.progress() < 1:
        parts.append(f"<b>{w('loading', int(100 * metrics.progress()))}</b>")
    if look.by_time and not len(columns.series("step_time")[0]):
        parts.append(f"<b>{w('no_time')}</b>")
    return head + facts(parts)
