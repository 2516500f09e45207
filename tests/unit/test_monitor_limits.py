"""What a request may ask of the monitor, and texts of runs that no JSON can carry: neither stops the page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from html import unescape

import httpx
import pytest

from monitor.checkpoints import saved_in
from monitor.choices import step_range
from monitor.columns import Columns
from monitor.compare import config_of
from monitor.exports import png
from monitor.i18n import Words
from monitor.metrics_collector import RunMetrics
from monitor.plain import carried, plain, plain_tree
from monitor.samples import choose, read_step
from monitor.server import build_app
from monitor.store import Monitor
from monitor.tables import filter_rows
from monitor.tabs import compare
from monitor.tabs.checkpoints import _row
from tests.unit.test_monitor_page import Server
from tests.unit.test_monitor_runs import make_run, step

HALF = "\ud800 half"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs")
    make_run(root, "good", [step(1, loss=0.5)])
    make_run(root, "half", [step(1, **{HALF: 1.0})], algorithm=HALF, reason=HALF, knobs={HALF: HALF})
    make_run(root, os.fsdecode(b"\xff name"), [step(1, loss=0.5)])
    running = Server(build_app(root))
    yield running.url
    running.server.should_exit = True
    running.join(10)


def test_texts_that_json_cannot_carry():
    assert plain(os.fsdecode(b"a\xff\x80")) == "a\\xff\\x80" and plain("文\ud800\udc41") == "文\ufffd\ufffd"
    assert plain("a\u202egnp.exe\u2069 \u05d0\u200f") == "a\\u202egnp.exe\\u2069 \u05d0\u200f"  # marks stay
    assert carried("\u202e\ud800") == "\u202e\ufffd"
    assert plain_tree({"\ud800": ["\udcff", 1, None]}) == {"\ufffd": ["\\xff", 1, None]}


@pytest.mark.parametrize("run", ["good", "half", "\\xff name"])
@pytest.mark.parametrize("tab", ["runs", "curves", "health", "log", "checkpoints"])
def test_such_texts_of_one_run_leave_every_tab_there(server, run, tab):
    data = {"runs": [run, "", "", None], "curves": [run, [], 0.6, "step", [], "", None], "log": [run, "", None]}
    asked = {"data": data.get(tab, [run])}
    assert httpx.post(f"{server}/en/gradio_api/run/fill_{tab}", json=asked, timeout=20).status_code == 200
    csv = httpx.get(f"{server}/csv", params={"run": run})
    assert csv.status_code == 200 and csv.text.startswith("step,")


@pytest.mark.parametrize("name", ["a b", "\u202egnp", os.fsdecode(b"\xff'\\"), "\u8fd0\u884c"])
def test_the_line_that_tries_a_checkpoint_names_it(tmp_path, name):
    """What the page shows is what bash reads as the path, also where the page cannot show the path itself."""
    run = make_run(tmp_path, name, [step(1, loss=0.5)])
    path = run / "checkpoints" / "global_step_8"
    path.mkdir(parents=True)
    shown = _row(saved_in(run)[0], Columns(), "", Words("en"))[-1]
    line = unescape(re.search(r"<code>\./test\.sh --model_path (.*)</code>", shown)[1])
    assert subprocess.run(["bash", "-c", f"printf %s {line}"], capture_output=True).stdout == os.fsencode(path)
    assert "\u202e" not in line and line.encode()


def test_such_texts_in_configs_and_samples(tmp_path):
    (tmp_path / "config.yaml").write_text('"a\\uD800": "\\uD800"\n')
    json.dumps(config_of(tmp_path / "config.yaml"), ensure_ascii=False).encode()  # read or left out, by the loader
    lines = [{"input": "a", "output": HALF, "score": float("nan")}, {"input": "a", "output": "b", "score": 1}]
    (tmp_path / "1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    samples, wrong = read_step(tmp_path, 1)
    assert [one.answer for one in samples] == ["\ufffd half", "b"] and not wrong


def test_facts_of_a_run_are_cut(tmp_path):
    make_run(tmp_path, "long", algorithm="a" * 9000, model_name="b" * 9000, reason="c" * 900_000)
    row = Monitor(tmp_path).rows()["long"]
    assert (len(row.algorithm), len(row.model), len(row.reason)) == (200, 200, 2000)


def test_requests_that_ask_for_too_much(server):
    assert httpx.get(f"{server}/news?tab={'x' * 40_000}").status_code == 414
    unknown = httpx.get(f"{server}/csv", params={"run": "good", "metric": ["loss", "gone"]})
    assert unknown.status_code == 404 and "gone" in unknown.text
    assert httpx.get(f"{server}/csv", params={"run": "good", "metric": "loss"}).text == "step,loss\n1,0.5\n"


def test_endless_texts_take_no_time(tmp_path):
    make_run(tmp_path, "good", [step(1, loss=0.5)])
    rows = list(Monitor(tmp_path).rows().values()) * 500
    (tmp_path / "1.jsonl").write_text(json.dumps({"input": "a" * 1000, "output": "b"}) + "\n")
    samples = read_step(tmp_path, 1)[0] * 500
    start = time.monotonic()
    assert step_range(" " * 1_000_000 + "x") == (None, None)
    assert len(filter_rows(rows, "o " * 400_000, "")) == len(rows)
    assert len(choose(samples, "a " * 400_000, "file")) == len(samples)
    assert time.monotonic() - start < 3


def test_compare_draws_no_more_than_a_tab_holds(monkeypatch):
    import gradio as gr

    drawn = []
    monkeypatch.setattr(compare, "compare_panel", lambda runs, name, look, w: drawn.append(name))
    monkeypatch.setattr(compare, "_columns", lambda page, chosen: {"a": Columns()})
    for name in ("_legend", "_reached", "_different"):
        monkeypatch.setattr(compare, name, lambda *_: "")
    with gr.Blocks():
        page = type("Page", (), {"words": Words("en"), "compared": gr.Dropdown([], multiselect=True, render=False)})
        tab = compare.build(page)
    tab.fill(["a"], [f"m{n}" for n in range(200)], 0.6, "step", "", "")
    assert len(drawn) == 60


def test_a_picture_with_long_and_odd_names(tmp_path):
    make_run(tmp_path, "r", [step(1, **{"\x1b[31m" + "x" * 180: 1.0})])
    metrics = RunMetrics(tmp_path / "r")
    metrics.poll(5)
    name = metrics.columns.names()[0]
    assert png(metrics, "\x07" + "t" * 5000, [name], Words("en")).startswith(b"\x89PNG")


def test_nothing_of_gradio_acts_with_the_owners_token(tmp_path):
    apps = [route.app.get_blocks() for route in build_app(tmp_path).routes if hasattr(route.app, "get_blocks")]
    assert len(apps) == 2 and not any(blocks.run_history for blocks in apps)
