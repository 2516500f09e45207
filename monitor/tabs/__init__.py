"""The tabs of the page, one file each: components and what fills them; everything they show is made by other layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from monitor.store import Monitor
from monitor.words import Words

ASSETS = Path(__file__).resolve().parents[1] / "assets"


@dataclass
class Page:
    """What all tabs share.

    Args:
        monitor: Where everything comes from.
        words: The texts of the page's language.
        run: The run chosen in the top bar.
        tabs: The tabs, to open another one.
        tab: The id of the open tab.
    """

    monitor: Monitor
    words: Words
    run: gr.Dropdown
    tabs: gr.Tabs
    tab: gr.Textbox


@dataclass
class Tab:
    """How a tab is filled: `fill` takes the values of `inputs` and returns those of `outputs`."""

    fill: Callable[..., Any]
    inputs: list[gr.components.Component]
    outputs: list[gr.components.Component]
    links: list[Callable[[], None]] = field(default_factory=list)


def charts() -> gr.HTML:
    """A grid of live charts; its value is a list of figures from monitor/figures.py."""
    script = (ASSETS / "charts.js").read_text(encoding="utf-8")
    return gr.HTML([], html_template='<div class="charts"></div>', js_on_load=script, apply_default_css=False)


def clickable() -> gr.HTML:
    """HTML whose elements with data-pick can be clicked; the event's `pick` says which."""
    return gr.HTML("", apply_default_css=False, js_on_load=(ASSETS / "table.js").read_text(encoding="utf-8"))
