"""The page: the top bar, the tabs, and the poll that fills the open tab when there is something new."""

from __future__ import annotations

import json
from html import escape

import gradio as gr

from monitor.change_token import tokens_of
from monitor.i18n import Words
from monitor.plain import plain
from monitor.store import Monitor
from monitor.system import Sampler
from monitor.tabs import ASSETS, QUIET, Page, Tab, checkpoints, compare, curves, health, log, runs, samples, system

TABS = {
    "runs": runs,
    "curves": curves,
    "compare": compare,
    "samples": samples,
    "health": health,
    "system": system,
    "log": log,
    "checkpoints": checkpoints,
}
TOKENS = tokens_of(TABS)
PUBLIC = {**QUIET, "api_visibility": "public"}  # gradio_client can ask for what a tab shows
COMPARED_AT_FIRST = 2  # the newest runs
OTHER = {"en": "zh", "zh": "en"}


def build_page(monitor: Monitor, sampler: Sampler, language: str, refresh: float) -> gr.Blocks:
    """Builds the page in one language.

    Args:
        monitor: The log folder.
        sampler: The machine.
        language: "en" or "zh".
        refresh: Seconds between two polls.
    """
    w = Words(language)
    with gr.Blocks(title=w("title"), analytics_enabled=False, fill_width=True) as blocks:
        run = _top_bar(monitor, w)
        tab = gr.Textbox("", visible="hidden", elem_id="open-tab")
        compared = gr.Dropdown(
            [],
            value=[],
            multiselect=True,
            label=w("runs_compared"),
            scale=4,
            min_width=260,
            allow_custom_value=True,
            render=False,
        )
        tokens = [gr.Textbox(visible="hidden", elem_id=f"token-{name}") for name in TABS]
        names = gr.Textbox(visible="hidden", elem_id="token-names")
        built: dict[str, Tab] = {}
        opened = {}
        with gr.Tabs(selected="runs", elem_id="tabs") as tabs:
            page = Page(monitor, sampler, w, run, compared, tabs, tab)
            for name, module in TABS.items():
                with gr.Tab(w(f"{name}_tab"), id=name, elem_id=f"tab-{name}") as opened[name]:
                    built[name] = module.build(page)
        _wire(blocks, page, built, opened, tokens, names, refresh)
    return blocks


def _top_bar(monitor: Monitor, w: Words) -> gr.Dropdown:
    with gr.Row(elem_classes="top-bar"):
        root = escape(plain(str(monitor.root)))
        gr.HTML(f'<div class="brand">{w("title")}<small title="{root}">{root}</small></div>', min_width=180)
        # Any value is taken, so that a page survives a restart of the server; `Monitor.row` looks it up.
        run = gr.Dropdown(
            [], show_label=False, container=False, scale=3, min_width=200, elem_id="run", allow_custom_value=True
        )
        other = OTHER[w.language]
        link = f"this.href='../{other}/'+location.search"
        gr.HTML(
            f'<div class="language"><a href="../{other}/" onclick="{link}">{w("other_language")}</a></div>',
            min_width=90,
        )
    return run


def _wire(
    blocks: gr.Blocks, page: Page, built: dict[str, Tab], opened: dict, tokens: list, names: gr.Textbox, refresh: float
) -> None:
    """Connects the poll to the tabs."""
    poll = (ASSETS / "poll.js").read_text(encoding="utf-8").replace("TABS", json.dumps(list(TABS)))
    poll = poll[poll.index("async") :]
    asked = [page.tab, page.run, page.compared, names, *tokens]
    told = [names, *tokens]
    gr.Timer(refresh).tick(None, asked, told, js=poll)
    for name, tab in opened.items():
        chosen = tab.select(None, None, page.tab, js=f"() => '{name}'")
        chosen.then(None, asked, told, js=poll)
    page.run.change(None, asked, told, js=poll)
    page.tab.change(None, asked, told, js=poll)
    for token, (name, tab) in zip(tokens, built.items(), strict=True):
        token.change(tab.fill, tab.inputs, tab.outputs, trigger_mode="always_last", api_name=f"fill_{name}", **PUBLIC)

    view, click = built["health"].links
    view.click(click, None, [page.tabs, page.tab, built["samples"].step], **QUIET).then(
        built["samples"].fill, built["samples"].inputs, built["samples"].outputs, **QUIET
    )

    def choices(run: str | None):
        """The runs to choose from, newest first. Inputs: top.run. Outputs: top.run, compared."""
        found = list(page.monitor.rows())
        run = run if run in found else (found[0] if found else None)
        return gr.Dropdown(found, value=run), gr.Dropdown(found)

    def begin(run: str | None, tab: str | None):
        """Opens what the address names. Inputs: top.run, tab. Outputs: top.run, compared, tabs, tab."""
        found = list(page.monitor.rows())
        run = run if run in found else (found[0] if found else None)
        tab = tab if tab in TABS else "runs"
        rows = page.monitor.rows()
        kind = rows[run].algorithm if run else ""
        have = [row.id for row in rows.values() if row.value is not None and row.algorithm == kind]
        return (
            gr.Dropdown(found, value=run),
            gr.Dropdown(found, value=have[:COMPARED_AT_FIRST]),
            gr.Tabs(selected=tab),
            tab,
        )

    names.change(choices, page.run, [page.run, page.compared], **QUIET)
    address = "() => { const at = new URLSearchParams(window.address); return [at.get('run'), at.get('tab')]; }"
    opening = [page.run, page.compared, page.tabs, page.tab]
    opened_now = f"(...all) => {{ window.opened = true; return ({poll})(...all); }}"
    blocks.load(begin, [page.run, page.tab], opening, js=address, **QUIET).then(None, asked, told, js=opened_now)
