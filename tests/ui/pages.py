"""How the browser's tests open the page, and what says that a tab is filled."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from monitor.i18n import Words

SHOWN = {
    "runs": "table.list tr.chosen",
    "curves": ".js-plotly-plot .scatterlayer path",
    "compare": "h3.part",
    "samples": ".sample, .note",
    "health": ".finding, .well, .problem",
    "system": ".meters",
    "log": "pre.log",
    "checkpoints": "table.list td code, .note",
}  # what a tab has once it is filled


def open_tab(page, url, tab, run, language="en"):
    """Open the page at a tab of a run, by its address; returns once the tab is filled."""
    page.goto(f"{url}/{language}/?tab={tab}&run={quote(run)}")
    wait_filled(page, tab)


def wait_filled(page, tab):
    page.locator(f"#tab-{tab}").locator(SHOWN[tab]).first.wait_for(state="attached", timeout=40_000)


def click_tab(page, tab, language="en"):
    """Open another tab as a reader does, on a phone behind the three points; returns once it is filled."""
    label = Words(language)(f"{tab}_tab")
    in_sight = page.get_by_role("tab", name=label, exact=True)
    if in_sight.count():
        in_sight.click()
    else:
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=label).click()
    wait_filled(page, tab)


def is_too_wide(page):
    """The ids, classes and texts of what reaches out of the screen to the right, but for what scrolls in a box."""
    return page.evaluate("""() => [...document.querySelectorAll('.gradio-container *')].filter((node) => {
        const box = node.getBoundingClientRect();
        if (!box.width || !box.height || box.right <= innerWidth + 1) return false;
        for (let up = node.parentElement; up; up = up.parentElement) {
            const cuts = /auto|scroll|hidden/.test(getComputedStyle(up).overflowX);
            if (cuts && up.getBoundingClientRect().right <= innerWidth + 1) return false;
        }
        return true;
    }).map((node) => `${node.tagName}.${node.className} ${node.innerText}`.slice(0, 120))""")


def keep_picture(page, name):
    """Write a picture of the page when SCREENSHOTS names a folder."""
    if os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(os.environ["SCREENSHOTS"]) / f"{name}.png")
