"""The monitor in a real browser: every tab, desktop and phone, both languages, live.

    apt-get install -y chromium fonts-noto-cjk
    python -m pytest tests/ui

SCREENSHOTS=folder keeps a picture of every tab to look at. RUN_DIR=outputs/RUN opens the tabs of that run (one that
trains, say).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from playwright.sync_api import expect

from monitor.server import build_app
from tests.ui.pages import click_tab, is_too_wide, keep_picture, open_tab
from tests.unit.test_monitor_data import dump, row
from tests.unit.test_monitor_page import TABS, Server
from tests.unit.test_monitor_runs import make_run

pytestmark = pytest.mark.ui
SIZES = {"desktop": (1280, 900), "phone": (390, 800)}


def record(step, **more):
    rng = np.random.default_rng(step)
    data = {
        "critic/score/mean": 1 - 0.7 * 0.97**step + 0.03 * rng.random(),
        "critic/score/max": 1.0,
        "critic/score/min": 0.0,
        "actor/pg_loss": -0.3 * 0.96**step,
        "actor/kl_loss": 0.002 * step,
        "actor/entropy": 0.3 * 0.98**step,
        "actor/grad_norm": 0.5 + 0.2 * rng.random(),
        "response_length/mean": 200 + 40 * rng.random(),
        "timing_s/step": 5 + rng.random(),
        "<img src=x onerror=alert(1)>": 1.0,
    }
    return {"step": step, "data": {**data, **more}}


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs")
    me = psutil.Process()
    lines = [record(n, **({"val-core/demo/acc/mean@1": 0.3 + n / 100} if n % 10 == 0 else {})) for n in range(1, 61)]
    live = make_run(
        root, "live", lines, state="running", pid=me.pid, pid_started=me.create_time(), knobs={"TOTAL_STEPS": "90"}
    )
    make_run(root, "older", lines[:40], algorithm="grpo", knobs={"TOTAL_STEPS": "40", "LEARNING_RATE": "1e-6"})
    make_run(root, "failed-one", lines[:9], state="failed", reason="CUDA out of memory", algorithm="ppo")
    for number in range(1, 61, 5):
        samples = [
            row(f"user\nWhat is {n} + 5? (number{n})\nassistant\n", f"{n} + 5 = {n + k}", float(k == 5), f"u{n}", k)
            for n in range(8)
            for k in range(2, 6)
        ]
        dump(live / "rollouts", number, samples)
        dump(live / "validation", number, samples[::4])
    (live / "train.log").write_text("".join(f"line {n}\n" for n in range(2000)) + "WARNING: slow\nValueError: bad\n")
    (live / "checkpoints" / "global_step_50").mkdir(parents=True)
    return root


@pytest.fixture(scope="module")
def looked_at(url):
    """Address and run of which every tab is opened."""
    if "RUN_DIR" not in os.environ:
        yield url, "live"
        return
    folder = Path(os.environ["RUN_DIR"]).resolve()
    server = Server(build_app(folder.parent))
    yield server.url, folder.name
    server.server.should_exit = True


@pytest.fixture(scope="module")
def contexts(browser):
    """A desktop and a phone; pages of one share what the browser keeps of the page's scripts."""
    made = {
        name: browser.new_context(
            viewport={"width": width, "height": height}, has_touch=name == "phone", is_mobile=name == "phone"
        )
        for name, (width, height) in SIZES.items()
    }
    yield made
    for one in made.values():
        one.close()


@pytest.fixture
def page(contexts, request):
    """A page that fails the test when the browser reports an error or opens a dialog (a script that ran)."""
    page, wrong = contexts[getattr(request, "param", "desktop")].new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: (wrong.append("dialog"), dialog.dismiss()))
    page.on(
        "request",
        lambda asked: (
            wrong.append(asked.url) if "127.0.0.1" not in asked.url and asked.url.startswith("http") else None
        ),
    )
    yield page
    page.close()
    assert not wrong


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("page", SIZES, indirect=True)
def test_every_tab(page, looked_at, language, request):
    url, run = looked_at
    size = request.node.callspec.params["page"]
    for tab in TABS:
        if tab == TABS[0]:
            open_tab(page, url, tab, run, language)
        else:
            click_tab(page, tab, language)
        page.wait_for_timeout(300)
        if tab == "samples" and page.locator(".sample").count():
            page.locator(".sample").first.click()
            page.locator(".cards .card").first.wait_for()
        keep_picture(page, f"{size}-{language}-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{tab} is wider than the screen"
        assert not is_too_wide(page), tab
        assert not page.locator(".toast-body").count()


def slowdown():
    """How many times longer this thread takes for its work than on a free core."""
    start, used = time.perf_counter(), time.thread_time()
    while time.thread_time() - used < 0.1:
        sum(range(1000))
    return (time.perf_counter() - start) / 0.1


def test_a_new_step_is_there_within_two_seconds_and_nothing_moves(page, url, logs):
    open_tab(page, url, "curves", "live")
    page.locator('[data-key="reward_mean"] .main-svg').first.wait_for()
    page.wait_for_timeout(1500)
    box = page.locator('[data-key="reward_mean"] .nsewdrag').bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 100, steps=6)
    page.mouse.up()
    page.wait_for_timeout(300)
    zoom = "document.querySelector('[data-key=reward_mean] .js-plotly-plot').layout.xaxis.range"
    zoomed = page.evaluate(zoom)
    assert zoomed[1] - zoomed[0] < 40
    page.mouse.wheel(0, 400)
    page.wait_for_timeout(400)
    page.evaluate("document.querySelectorAll('.chart').forEach(node => node.mark = 1)")
    scrolled = page.evaluate("scrollY")
    waits, slow = [], []
    for number in range(61, 66):
        slow.append(slowdown())
        start = time.monotonic()
        with (logs / "live" / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(record(number)) + "\n")
        page.locator(".facts b", has_text=f"{number}/90").first.wait_for(timeout=40_000)
        last = f"document.querySelector('[data-key=reward_mean] .js-plotly-plot').data[1].x.at(-1) === {number}"
        page.wait_for_function(last, timeout=40_000)
        waits.append(time.monotonic() - start)
    print(f"seconds until a new step is drawn: {waits}; slowdown of the machine: {slow}")
    assert page.evaluate(zoom) == zoomed and page.evaluate("scrollY") == scrolled
    page.mouse.wheel(0, -1000)
    page.mouse.dblclick(box["x"] + 60, box["y"] + 60)
    page.wait_for_function("document.querySelector('[data-key=reward_mean] .js-plotly-plot').layout.xaxis.range[0] < 1")
    assert page.evaluate("[...document.querySelectorAll('.chart')].every(node => node.mark)")
    assert sorted(waits)[2] < 2 * sorted(slow)[2], (waits, slow)


def test_choices_stay_when_new_steps_come(page, url, logs):
    open_tab(page, url, "curves", "live")
    box = page.get_by_label("Metrics").first
    box.click()
    box.fill("actor/grad")
    page.get_by_role("option", name="actor/grad_norm", exact=True).click()
    expect(page.locator(".chart")).to_have_count(1)
    page.get_by_label("log scale").check()
    page.wait_for_function("document.querySelector('.js-plotly-plot').layout.yaxis.type === 'log'")
    with (logs / "live" / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(record(66)) + "\n")
    page.locator(".facts b", has_text="66/90").first.wait_for()
    expect(page.locator(".chart")).to_have_count(1)
    assert page.evaluate("document.querySelector('.js-plotly-plot').layout.yaxis.type") == "log"
    page.get_by_role("tab", name="Runs").click()
    page.locator("th[data-pick='sort:name']").click()
    page.locator("th.sorted", has_text="Name ↑").wait_for()
    page.locator("#runs-filter input, #runs-filter textarea").press_sequentially("o")
    page.wait_for_function("document.querySelectorAll('table.list tbody tr').length === 3")
    page.locator("#runs-filter input, #runs-filter textarea").press_sequentially("lder")
    page.wait_for_function("document.querySelectorAll('table.list tbody tr').length === 1")
    page.locator("tr[data-pick='run:older']").click()
    page.locator(".facts b", has_text="40/40").first.wait_for()


def test_samples_health_and_log(page, url):
    open_tab(page, url, "samples", "live")
    page.locator(".sample").first.click()
    expect(page.locator(".card")).to_have_count(4)
    assert page.locator(".detail table.list tbody tr").count() == 12  # this prompt through training
    page.get_by_label("Text in prompt or answer").press_sequentially("NUMBER7")
    page.wait_for_function("document.querySelectorAll('.sample').length === 4")
    page.get_by_role("tab", name="Health").click()
    page.locator(".finding a", has_text="samples").first.click()
    page.locator(".sample").first.wait_for()
    page.get_by_role("tab", name="Log").click()
    page.locator("pre.log .error", has_text="ValueError: bad").first.wait_for()
    page.wait_for_function(
        "(n => n.scrollTop + n.clientHeight > n.scrollHeight - 50)([...document.querySelectorAll('pre.log')].at(-1))"
    )
    page.get_by_placeholder("Search the log").press_sequentially("line 1999")
    page.locator(".facts", has_text="Lines found: 1").first.wait_for()


def test_the_other_language_keeps_the_place(page, url):
    open_tab(page, url, "health", "older")
    page.get_by_role("link", name="中文").click()
    page.get_by_role("tab", name="健康", selected=True).wait_for()
    page.wait_for_url("**/zh/?tab=health&run=older")


def test_a_server_that_goes_away_and_comes_back(contexts, logs):
    first = Server(build_app(logs))
    page = contexts["desktop"].new_page()
    open_tab(page, first.url, "curves", "live")
    first.server.should_exit = True
    first.join(20)
    page.wait_for_function("document.body.classList.contains('connection-lost')", timeout=40_000)
    second = Server(build_app(logs), int(first.url.rsplit(":")[-1]))
    page.wait_for_function("!document.body.classList.contains('connection-lost')", timeout=40_000)
    with (logs / "live" / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(record(67)) + "\n")
    page.locator(".facts b", has_text="67/90").first.wait_for(timeout=40_000)
    page.close()
    second.server.should_exit = True
