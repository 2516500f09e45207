"""Health: what is wrong, since when, the likely cause, the knob, and the samples that show it."""

from __future__ import annotations

from html import escape

import gradio as gr

from common.metrics.names import BY_NAME, METRICS
from monitor.change_token import Asked
from monitor.columns import Columns
from monitor.health import Finding, find, healthy_range, is_outside, longest_answer
from monitor.i18n import ADVICE_ZH, Words
from monitor.tables import note, number, problem, table
from monitor.tabs import Page, Tab, clickable


def token(asked: Asked) -> str:
    """Changes with the numbers of the run."""
    return asked.numbers()


def build(page: Page) -> Tab:
    """Lays out the tab."""
    w = page.words
    view = clickable()

    def fill(run):
        """Inputs: top.run. Outputs: view."""
        row, metrics = page.monitor.row(run), page.monitor.metrics(run, 2.0)
        if row is None or metrics is None:
            return note(w("no_run"))
        ended = _ending(row.state, row.reason, w)
        with metrics.lock:
            if metrics.columns.last_step < 0:
                return ended + note(w("no_metrics"))
            rollouts = page.monitor.file(run, "rollouts")
            found = find(metrics.columns, longest_answer(row.knobs), rollouts)
            return ended + _findings(found, rollouts is not None, w) + _overview(metrics.columns, found, w)

    def click(event: gr.EventData):
        """Opens the samples of a step. Outputs: tabs, tab, samples.step."""
        kind, _, value = str(event._data.get("pick", "")).partition(":")
        if kind != "samples" or not value.isdecimal():
            return gr.skip(), gr.skip(), gr.skip()
        return gr.Tabs(selected="samples"), "samples", value

    return Tab(fill, [page.run], [view], links=(view, click))


def _ending(state: str, reason: str, w: Words) -> str:
    if state == "failed":
        return problem(w("run_failed", reason or "?"))
    return problem(w(f"{state}_why")) if state in ("died", "silent") else ""


def _findings(found: list[Finding], has_samples: bool, w: Words) -> str:
    if not found:
        return f'<div class="well">{escape(w("healthy"))}</div>'
    return "".join(_finding(one, has_samples, w) for one in found)


def _finding(one: Finding, has_samples: bool, w: Words) -> str:
    when = w("since", one.first) if one.now else w("between", one.first, one.last)
    link = f'<a data-pick="samples:{one.last}" tabindex="0">{w("see_samples", one.last)}</a>' if has_samples else ""
    kind = "now" if one.now else "past"
    head = f'<div class="finding-head"><b>{escape(_title(one, w))}</b><span>{escape(when)}</span>{link}</div>'
    return f'<div class="finding {kind}">{head}<div>{escape(_advice(one, w))}</div></div>'


def _title(one: Finding, w: Words) -> str:
    if one.name in BY_NAME:
        return f"{w.metric(one.name)} {number(one.value, BY_NAME[one.name].number)}"
    return w(f"title_{one.name}")


def _advice(one: Finding, w: Words) -> str:
    """The advice in the page's language; the table's own, which is English, where texts.yaml has none."""
    if not one.side:
        return w(f"health_{one.name}", f"{one.value:.2g}")
    advice = ADVICE_ZH.get(f"{one.name}_{one.side}") or (ADVICE_ZH["nan"] if one.side == "nan" else "")
    if w.language == "zh" and advice:
        return advice
    return one.advice


def _overview(columns: Columns, found: list[Finding], w: Words) -> str:
    """Every metric that has a rule: where it is, and where it should be."""
    wrong = {one.name for one in found if one.now}
    heads = [(w("metric"), ""), (w("now"), "number"), (w("healthy_range"), "number"), (w("state"), "")]
    rows = []
    for metric in METRICS:
        _, values = columns.series(metric.name)
        if not len(values) or not (metric.below or metric.above or metric.finite):
            continue
        state = "failed" if metric.name in wrong else "running_well"
        outside = is_outside(metric.name, float(values[-1]))
        label = w("needs_attention") if metric.name in wrong else w("fine_here") if outside else w("fine")
        pill = f'<span class="state {state}">{escape(label)}</span>'
        shown = number(float(values[-1]), metric.number)
        rows.append([escape(w.metric(metric.name)), shown, escape(healthy_range(metric.name)) or "–", pill])
    return f'<h3 class="part">{escape(w("checked"))}</h3>' + table(heads, rows) if rows else ""
