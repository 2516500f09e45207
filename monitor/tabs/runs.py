"""Runs: the table, sorted and filtered."""

from __future__ import annotations

import gradio as gr

from monitor.change_token import Asked
from monitor.plain import plain
from monitor.tables import RUN_COLUMNS, filter_rows, note, problem, runs_table, sort_rows
from monitor.tabs import QUIET, Page, Tab, clickable

STATES = ("running", "finished", "failed", "stopped", "died", "live", "quiet")
_FIRST_ASCENDING = {"name", "algorithm", "model", "state"}


def token(asked: Asked) -> str:
    """Changes with the table."""
    return f"{asked.monitor.version()}|{asked.monitor.problem}"


def build(page: Page) -> Tab:
    """Lays out the tab."""
    w = page.words
    with gr.Row(elem_classes="controls"):
        text = gr.Textbox(
            placeholder=w("filter_runs"), show_label=False, container=False, scale=4, elem_id="runs-filter", max_lines=1
        )
        states = [(w("all"), "")] + [(w(state), state) for state in STATES]
        state = gr.Dropdown(states, value="", show_label=False, container=False, scale=1, min_width=120)
    table = clickable()
    order = gr.State(("started", True))

    def fill(run: str | None, text: str, state: str, order: tuple[str, bool]) -> str:
        return _table(page, run, text, state, order)

    def click(order: tuple[str, bool], event: gr.EventData):
        """Sorts by a column, or opens a run. Inputs: order. Outputs: order, top.run, tabs, tab."""
        kind, _, value = str(event._data.get("pick", "")).partition(":")
        if kind == "sort" and value in dict(RUN_COLUMNS):
            descending = not order[1] if order[0] == value else value not in _FIRST_ASCENDING
            return (value, descending), gr.skip(), gr.skip(), gr.skip()
        if kind == "run" and page.monitor.row(value):
            return gr.skip(), value, gr.Tabs(selected="curves"), "curves"
        return gr.skip(), gr.skip(), gr.skip(), gr.skip()

    inputs = [page.run, text, state, order]
    table.click(click, order, [order, page.run, page.tabs, page.tab], **QUIET).then(fill, inputs, table, **QUIET)
    gr.on([text.input, state.input], fill, inputs, table, **QUIET, trigger_mode="always_last")
    return Tab(fill, inputs, [table])


def _table(page: Page, run: str | None, text: str, state: str, order: tuple[str, bool]) -> str:
    w, rows = page.words, list(page.monitor.rows().values())
    wrong = page.monitor.problem
    head = problem(w(wrong, plain(str(page.monitor.root)))) if wrong else ""
    if not rows:
        return head or note(w("no_runs"))
    shown = sort_rows(filter_rows(rows, text or "", state or ""), *order)
    if not shown:
        return head + note(w("none_match"))
    count = (
        f'<div class="facts"><span>{w("runs_count", len(shown), len(rows))}</span></div>'
        if len(shown) < len(rows)
        else ""
    )
    return head + runs_table(shown, run, *order, w) + count
