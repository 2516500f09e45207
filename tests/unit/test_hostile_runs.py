"""Files of other people's runs: none stops the page, none leads out of the log folder; the runs next to it stay."""

from __future__ import annotations

import json
import os
import time

import httpx
import pytest

from common.files import open_regular
from common.run_dir import is_alive
from monitor.compare import config_of
from monitor.server import build_app
from monitor.store import Monitor
from tests.unit.test_monitor_page import Server
from tests.unit.test_monitor_runs import make_run, step

HOST = os.uname().nodename
BAD_RUNS = {
    "pid is a text": {"state": "running", "host": HOST, "pid": "abc", "pid_started": 1},
    "pid below zero": {"state": "running", "host": HOST, "pid": -5, "pid_started": 1},
    "no ascii digit": {"state": "finished", "knobs": {"TOTAL_STEPS": "²"}},
    "5000 digits": {"state": "finished", "knobs": {"TOTAL_STEPS": "9" * 5000}},
    "400 digits": {"state": "running", "host": "other", "knobs": {"TOTAL_STEPS": "9" * 400}},
    "a list": [1, 2],
    "odd kinds": {"state": ["running"], "host": {}, "knobs": [], "started": {}},
}


@pytest.mark.parametrize("value", ["!!bool 3", "!!timestamp x", "!!int ''", "!!float x", "!!int 1:x"])
def test_a_config_whose_values_are_not_what_their_tags_say_is_none(tmp_path, value):
    path = tmp_path / "config.yaml"
    path.write_text(f"a: {value}\n")
    assert config_of(path) == {}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "outputs"
    make_run(folder, "good", [step(1, loss=0.5), step(2, loss=0.25)])
    return folder


def names(monitor):
    return set(monitor.rows())


@pytest.mark.parametrize("name", BAD_RUNS)
def test_a_bad_run_json_takes_nothing_down(root, name):
    run = make_run(root, "bad", [step(1, loss=0.5), {"step": 2, "data": {"timing_s/step": 3.0, "loss": 1.0}}])
    (run / "run.json").write_text(json.dumps(BAD_RUNS[name]))
    monitor = Monitor(root)
    assert names(monitor) == {"good", "bad"}
    assert monitor.metrics("good", 1.0).columns.last_step == 2


def test_a_run_that_cannot_be_read_is_shown_as_damaged(root, monkeypatch):
    from monitor import runs

    make_run(root, "bad", [step(1, loss=0.5)])
    look = runs._Peek._look

    def broken(self):
        if self.id == "bad":
            raise ZeroDivisionError("odd")
        return look(self)

    monkeypatch.setattr(runs._Peek, "_look", broken)
    rows = Monitor(root).rows()
    assert (rows["bad"].state, rows["bad"].reason) == ("damaged", "ZeroDivisionError: odd")
    assert rows["good"].step == 2


def test_numbers_of_run_json_that_are_none(root):
    assert not is_alive({"state": "running", "host": HOST, "pid": 2**70, "pid_started": 0})
    assert not is_alive({"state": "running", "host": HOST, "pid": os.getpid(), "pid_started": "x"})


def test_pipes_and_odd_names_do_not_hold_the_page(root):
    os.mkfifo(root / "x.log")
    run = make_run(root, "piped", [])
    (run / "metrics.jsonl").unlink(missing_ok=True)
    os.mkfifo(run / "metrics.jsonl")
    os.mkfifo(run / "train.log")
    (run / "rollouts").mkdir(exist_ok=True)
    os.mkfifo(run / "rollouts" / "1.jsonl")
    with open(os.path.join(os.fsencode(root), b"\xff.log"), "w") as file:
        file.write("Step 1/2 | Loss: 0.5\n")
    running = Server(build_app(root, port=7860))
    try:
        started = time.monotonic()
        news = ("tab=runs&run=good", "tab=samples&run=piped", "tab=log&run=x.log")
        for path in ("/csv?run=good", *(f"/news?{one}" for one in news)):
            assert httpx.get(running.url + path, timeout=10).status_code == 200, path
        assert time.monotonic() - started < 10
    finally:
        running.server.should_exit = True
        running.join(10)


@pytest.mark.timeout(60)
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is not a plain file"):
        open_regular(tmp_path / "pipe")


def test_links_inside_a_run_lead_nowhere(root, tmp_path):
    secret = tmp_path / "secret.jsonl"
    secret.write_text(json.dumps({"step": 7, "data": {"loss": 0.123}}) + "\n")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"input": "secret", "output": "secret", "score": 1.0}) + "\n")
    run = make_run(root, "links", [])
    for name in ("metrics.jsonl", "train.log", "run.json"):
        (run / name).unlink(missing_ok=True)
    (run / "metrics.jsonl").symlink_to(secret)
    (run / "train.log").symlink_to(secret)
    (run / "rollouts").mkdir(exist_ok=True)
    (run / "rollouts" / "5.jsonl").symlink_to(prompts)
    (run / "run.json").write_text("{}")
    monitor = Monitor(root)
    assert monitor.rows()["links"].step is None
    assert monitor.metrics("links", 1.0).columns.last_step == -1
    assert monitor.log("links") is None
    from monitor.samples import read_step

    assert read_step(run / "rollouts", 5)[0] == []


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 200_000 + "]" * 200_000,
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)),
        "a: " + "{b: " * 500 + "1" + "}" * 500,
    ],
)
@pytest.mark.timeout(60)
def test_a_config_that_nests_or_grows_without_limit_is_left_out(root, text):
    path = root / "good" / ".hydra" / "config.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    started = time.monotonic()
    assert config_of(path) == {}
    assert time.monotonic() - started < 5
    path.write_text("trainer:\n  total_epochs: 3\n")
    assert config_of(path) == {"trainer.total_epochs": "3"}


def test_a_sample_nested_without_end_is_left_out(root):
    folder = root / "good" / "rollouts"
    folder.mkdir(exist_ok=True)
    nested = '{"input": "a", "output": ' + "[" * 900 + "]" * 900 + "}"
    (folder / "1.jsonl").write_text(nested + '\n{"input": "a", "output": "b", "score": 1}\n')
    from monitor.samples import read_step

    samples, wrong = read_step(folder, 1)
    assert [sample.answer for sample in samples][-1] == "b"
