"""Log: the console output as it comes, searched, with the errors first."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr

from monitor.change_token import NO_RUN, Asked, changed
from monitor.i18n import Words
from monitor.log_tail import WARNING, errors, is_error, search, tail
from monitor.machines import logs_of
from monitor.plain import plain
from monitor.tables import note, problem
from monitor.tabs import QUIET, Page, Tab, tailing, view


def token(asked: Asked) -> str:
    """Changes with the log."""
    return "|".join(map(changed, logs_of(asked.monitor, asked.run).values())) if asked.row else NO_RUN


def build(page: Page) -> Tab:
    """Lays out the tab."""
    w = page.words
    with gr.Row(elem_classes="controls"):
        machine = gr.Dropdown(
            [],
            label=w("machine"),
            show_label=False,
            container=False,
            visible=False,
            elem_id="log-machine",
            allow_custom_value=True,
        )
        text = gr.Textbox(placeholder=w("search_log"), show_label=False, container=False, max_lines=1, scale=3)
    head = view()
    lines = tailing()

    def fill(run, text, machine):
        """Inputs: top.run, text, machine. Outputs: head, lines, machine."""
        logs = logs_of(page.monitor, run)
        if not logs:
            return note(w("no_log") if page.monitor.row(run) else w("no_run")), "", gr.Dropdown([], visible=False)
        chosen = machine if machine in logs else next(iter(logs))
        choice = gr.Dropdown(list(logs), value=chosen, visible=len(logs) > 1)
        path = logs[chosen]
        try:
            if (text or "").strip():
                return *_found(path, text.strip(), w), choice
            failed = page.monitor.row(run).state in ("failed", "died")
            return _errors(path, failed, w), _lines(tail(path)), choice
        except OSError as error:
            return problem(plain(f"{path.name}: {error.strerror}")), "", choice

    inputs, outputs = [page.run, text, machine], [head, lines, machine]
    gr.on([text.input, machine.input], fill, inputs, outputs, **QUIET, trigger_mode="always_last")
    return Tab(fill, inputs, outputs)


def _found(path: Path, text: str, w: Words) -> tuple[str, str]:
    hits, complete = search(path, text)
    count = w("hits", len(hits)) if complete else w("hits_cut", len(hits))
    return f'<div class="facts"><span>{escape(count)}</span></div>', _lines([hit.text for hit in hits])


def _errors(path: Path, failed: bool, w: Words) -> str:
    """The errors of the log's end with what they mean, above everything else."""
    found, diagnosis = errors(path, failed)
    if not found and not diagnosis:
        return ""
    meaning = ""
    if diagnosis:
        fix = f"<div>{escape(w('fix', diagnosis.fix))}</div>" if diagnosis.fix else ""
        meaning = f'<div class="problem">{escape(diagnosis.cause)}{fix}</div>'
    if not found:
        return meaning
    title = escape(w("errors", len(found)))
    return f'{meaning}<details class="errors" open><summary>{title}</summary>{_lines(found)}</details>'


def _lines(lines: list[str]) -> str:
    return f'<pre class="log">{"".join(_line(line) for line in lines)}</pre>'


def _line(line: str) -> str:
    kind = "error" if is_error(line) else "warning" if WARNING.search(line) else ""
    return f'<span class="{kind}">{escape(line)}</span>\n' if kind else f"{escape(line)}\n"
