"""Curves: the metrics of one run, as they come in."""

from __future__ import annotations

from html import escape
from urllib.parse import urlencode

import gradio as gr

from monitor.change_token import Asked
from monitor.choices import default_names, metric_choices, step_range
from monitor.columns import Columns
from monitor.figures import Look, metric_panel
from monitor.i18n import Words
from monitor.metrics_collector import RunMetrics
from monitor.tables import facts, note, problem, state_pill
from monitor.tabs import MAX_PANELS, QUIET, Page, Tab, charts, view

FIRST_WAIT = 2.0  # seconds that opening a long run may take before it is shown as far as it is read


def token(asked: Asked) -> str:
    """Changes with the numbers of the run."""
    return asked.numbers()


def build(page: Page) -> Tab:
    """Lays out the tab."""
    w = page.words
    with gr.Row(elem_classes="controls"):
        names = gr.Dropdown([], value=[], multiselect=True, label=w("metrics"), scale=4, min_width=250)
        smoothing = gr.Slider(0, 0.99, 0.6, step=0.01, label=w("smoothing"), scale=3, min_width=210)
        axes = [(w("by_step"), "step"), (w("by_time"), "time")]
        axis = gr.Radio(axes, value="step", label=w("x_axis"), scale=2, min_width=190)
        flags = gr.CheckboxGroup(
            [(w("log_scale"), "log"), (w("clip"), "clip")], label=w("y_axis"), scale=3, min_width=260
        )
        steps = gr.Textbox(label=w("steps"), placeholder=w("steps_hint"), max_lines=1, scale=1, min_width=160)
    status = view()
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
    gr.on(changes, fill, inputs, outputs, **QUIET, trigger_mode="always_last")
    return Tab(fill, inputs, outputs)


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
    query = urlencode([("run", run), *(("metric", name) for name in chosen[:MAX_PANELS]), ("language", w.language)])
    parts = [state_pill(row, w)] if row else []
    parts += [w("curves_status", f"<b>{columns.last_step}{total}</b>", len(columns.names()))]
    parts += [f'<a href="../csv?{escape(query)}" download>{w("download_csv")}</a>']
    parts += [f'<a href="../png?{escape(query)}" download>{w("download_png")}</a>']
    if metrics.progress() < 1:
        parts.append(f"<b>{w('loading', int(100 * metrics.progress()))}</b>")
    if look.by_time and not len(columns.series("step_time")[0]):
        parts.append(f"<b>{w('no_time')}</b>")
    return head + facts(parts)
