"""The page of a run on two machines: figures of both, and the log of the one that is chosen."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from common import machine_use
from tests.ui.pages import click_tab, is_too_wide, keep_picture, open_tab
from tests.unit.test_monitor_machines import MACHINES, moment
from tests.unit.test_monitor_runs import make_run, step

pytestmark = pytest.mark.ui


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs")
    lines = [step(n, **{"critic/score/mean": n / 60}) for n in range(1, 31)]
    folder = make_run(root, "two", lines, machines=MACHINES)
    (folder / "train.log").write_text("".join(f"first {n}\n" for n in range(50)))
    (folder / "train.node1.log").write_text("second machine\nRuntimeError: its own\n")
    for rank in (0, 1):
        for age in range(1800, 0, -10):
            use = 60 + 30 * rank - (age % 70) / 7
            machine_use.append(machine_use.file_of(folder, rank), moment(age, use, cpu=20.0 + 10 * rank))
    return root


def test_figures_and_logs_of_both_machines(browser, url):
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    try:
        open_tab(page, url, "system", "two")
        shown = page.locator("#tab-system")
        for title in ("1: node-a (10.0.0.1)", "2: node-b (10.0.0.2)", "The machine of this page"):
            expect(shown.get_by_text(title)).to_have_count(1)
        expect(shown.get_by_text("0  NVIDIA H100")).to_have_count(2)
        expect(shown.get_by_text("GPU use (%) · machines of the run")).to_be_visible()
        expect(shown.locator(".js-plotly-plot .scatterlayer .trace path.js-line").first).to_be_attached()
        assert not is_too_wide(page)
        keep_picture(page, "machines-system")
        click_tab(page, "log")
        lines = page.locator("#tab-log pre.log").last
        expect(lines).to_contain_text("first 49")
        page.locator("#log-machine input").click()
        page.get_by_role("option", name="2: node-b (10.0.0.2)").click()
        expect(lines).to_contain_text("second machine")
        expect(page.locator("#tab-log .errors")).to_contain_text("RuntimeError: its own")
        page.wait_for_timeout(1500)  # polls go on; the choice stays
        expect(lines).to_contain_text("second machine")
        keep_picture(page, "machines-log")
    finally:
        page.close()
