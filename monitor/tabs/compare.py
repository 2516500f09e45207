"""Compare: several runs in the same charts, what they reached, and what was set differently."""

from __future__ import annotations

from html import escape

import gradio as gr

from common.metrics.names import BY_NAME, METRICS
from monitor.change_token import Asked
from monitor.choices import metric_choices, step_range
from monitor.columns import Columns
from monitor.compare import config_of, differences, knobs_of, reached
from monitor.figures import PALETTE, Look, compare_panel
from monitor.tables import facts, note, number, table
from monitor.tabs import MAX_PANELS, QUIET, Page, Tab, charts, view

MAX_COMPARED = len(PALETTE)
DEFAULT = tuple(metric.name for metric in METRICS if metric.compared)
MAX_DIFFERENCES = 200


def token(asked: Asked) -> str:
    """Changes with the numbers of the runs compared."""
    return "|".join(f"{run}:{asked.version(run)}" for run in asked.compared[:MAX_COMPARED])


def build(page: Page) -> Tab:
    """Lays out the tab."""
    w, compared = page.words, page.compared
    with gr.Row(elem_classes="controls"):
        compared.render()
        names = gr.Dropdown([], value=[], multiselect=True, label=w("metrics"), scale=3, min_width=240)
        smoothing = gr.Slider(0, 0.99, 0.6, step=0.01, label=w("smoothing"), scale=3, min_width=210)
        axes = [(w("by_step"), "step"), (w("by_time"), "time")]
        axis = gr.Radio(axes, value="step", label=w("x_axis"), scale=2, min_width=190)
        steps = gr.Textbox(label=w("steps"), placeholder=w("steps_hint"), max_lines=1, scale=1, min_width=160)
    legend = view()
    grid = charts()
    reached_table = view()
    different = view()
    known = gr.State("")

    def fill(chosen, names, smoothing, axis, steps, known):
        """Inputs: compared and the controls. Outputs: legend, grid, reached, different, names, known."""
        runs = _columns(page, chosen or [])
        if not runs:
            return "", [], note(w("choose_runs")), "", gr.skip(), gr.skip()
        look = Look(smoothing, axis == "time", False, False, *step_range(steps))
        drawn = [compare_panel(runs, name, look, w) for name in (names or _shown(runs))[:MAX_PANELS]]
        key = "/".join(f"{run}:{len(columns.names())}" for run, columns in runs.items())
        choices = gr.skip() if key == known else gr.Dropdown(_choices(runs, page))
        shown = [one for one in drawn if one]
        return _legend(page, runs), shown, _reached(runs, page), _different(page, list(runs)), choices, key

    inputs = [compared, names, smoothing, axis, steps, known]
    outputs = [legend, grid, reached_table, different, names, known]
    changes = [compared.input, names.change, smoothing.release, axis.input, steps.submit, steps.blur]
    gr.on(changes, fill, inputs, outputs, **QUIET, trigger_mode="always_last")
    return Tab(fill, inputs, outputs)


def _columns(page: Page, chosen: list[str]) -> dict[str, Columns]:
    found = {run: page.monitor.metrics(run, 1.0) for run in chosen[:MAX_COMPARED]}
    return {run: metrics.columns for run, metrics in found.items() if metrics}


def _legend(page: Page, runs: dict[str, Columns]) -> str:
    rows = [(run, page.monitor.row(run)) for run in runs]
    return facts(f"{_dot(place)}{escape(run)}" for place, (run, row) in enumerate(rows) if row)


def _dot(place: int) -> str:
    return f'<span class="dot" style="--dot:{PALETTE[place]}"></span>'


def _shown(runs: dict[str, Columns]) -> list[str]:
    have = {name for columns in runs.values() for name in columns.table_names()}
    return [name for name in DEFAULT if name in have]


def _choices(runs: dict[str, Columns], page: Page) -> list[tuple[str, str]]:
    return list(dict.fromkeys(choice for columns in runs.values() for choice in metric_choices(columns, page.words)))


def _reached(runs: dict[str, Columns], page: Page) -> str:
    """A row per run: the last step, and per metric the last value and the best with its step."""
    w = page.words
    names = [name for name in _shown(runs) if name in BY_NAME]
    heads = [(w("name"), "name"), (w("step"), "number")] + [(w.metric(name), "number") for name in names]
    rows = []
    for place, (run, columns) in enumerate(runs.items()):
        cells = [f"{_dot(place)}{escape(run)}", str(columns.last_step) if columns.last_step >= 0 else "–"]
        rows.append(cells + [_cell(columns, name, w) for name in names])
    return f'<h3 class="part">{escape(w("reached"))}</h3>' + table(heads, rows)


def _cell(columns: Columns, name: str, w) -> str:
    found = reached(columns, name)
    if found is None:
        return "–"
    form = BY_NAME[name].number
    best = "" if found.best is None else f"<small> · {w('best', number(found.best, form), found.best_step)}</small>"
    return number(found.final, form) + best


def _different(page: Page, chosen: list[str]) -> str:
    """The knobs that differ, then the keys of verl's config that do."""
    w = page.words
    rows = {run: page.monitor.row(run) for run in chosen}
    knobs = differences({run: knobs_of(row.run) if row else {} for run, row in rows.items()})
    configs = differences({run: config_of(page.monitor.file(run, ".hydra/config.yaml")) for run in chosen})
    if len(chosen) < 2:
        return note(w("choose_more"))
    heads = [(w("setting"), "wrap")] + [(run, "wrap") for run in chosen]
    parts = []
    for title, found in ((w("knobs_differ"), knobs), (w("config_differs"), configs)):
        cells = [[escape(name), *(_setting(value) for value in values)] for name, values in found[:MAX_DIFFERENCES]]
        body = table(heads, cells) if cells else note(w("nothing_differs"))
        parts.append(f'<h3 class="part">{escape(title)} ({len(found)})</h3>{body}')
    return "".join(parts)


def _setting(value: str | None) -> str:
    return "–" if value is None else escape(value[:300])
