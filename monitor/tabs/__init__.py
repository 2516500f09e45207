"""The tabs of the page, one file each: components and what fills them; everything they show is made by other layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from monitor.i18n import Words
from monitor.store import Monitor
from monitor.system import Sampler

MAX_PANELS = 60  # charts of a tab, and of a picture
ASSETS = Path(__file__).resolve().parents[1] / "assets"
# How every handler runs: at once, without Gradio's queue, its spinner and a place in its list of interfaces.
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "undocumented"}


@dataclass
class Page:
    """What all tabs share.

    Args:
        monitor: Where everything comes from.
        sampler: The machine.
        words: The texts of the page's language.
        run: The run chosen in the top bar.
        compared: The runs chosen to be compared; made before the tabs, as the poll sends them, and shown in one.
        tabs: The tabs, to open another one.
        tab: The id of the open tab.
    """

    monitor: Monitor
    sampler: Sampler
    words: Words
    run: gr.Dropdown
    compared: gr.Dropdown
    tabs: gr.Tabs
    tab: gr.Textbox


@dataclass
class Tab:
    """How a tab is filled.

    Args:
        fill: Takes the values of `inputs` and returns those of `outputs`.
        inputs: Components.
        outputs: Components.
        step: Where a step is chosen, for tabs that link to one.
        links: What is clicked to open the samples of a step, and the handler that returns tabs, tab and step.
    """

    fill: Callable[..., Any]
    inputs: list[gr.components.Component]
    outputs: list[gr.components.Component]
    step: gr.Dropdown | None = None
    links: tuple[gr.HTML, Callable[..., Any]] | None = None


def charts() -> gr.HTML:
    """A grid of live charts; its value is a list of figures from monitor/figures.py."""
    return gr.HTML(
        [], html_template='<div class="charts"></div>', js_on_load=_script("charts"), apply_default_css=False
    )


def view() -> gr.HTML:
    """HTML to look at."""
    return gr.HTML("", apply_default_css=False)


def clickable() -> gr.HTML:
    """HTML whose elements with data-pick can be clicked; the event's `pick` says which."""
    return gr.HTML("", apply_default_css=False, js_on_load=_script("table"))


def copyable() -> gr.HTML:
    """HTML whose buttons with data-copy put that text on the clipboard."""
    return gr.HTML("", apply_default_css=False, js_on_load=_script("copy"))


def tailing() -> gr.HTML:
    """HTML with a <pre class="log"> whose end stays in sight as it grows."""
    return gr.HTML("", apply_default_css=False, js_on_load=_script("tail"))


def _script(name: str) -> str:
    return (ASSETS / f"{name}.js").read_text(encoding="utf-8")
