"""The monitor over HTTP: every tab in both languages, downloads, the password, and what must not be served."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
import uvicorn
from gradio_client import Client

from monitor.server import build_app
from tests.conftest import ROOT
from tests.unit.test_monitor_data import dump, row
from tests.unit.test_monitor_runs import make_run, step

TABS = ("runs", "curves", "compare", "samples", "health", "system", "log", "checkpoints")
SECRET = "nobody may see this"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A log folder with a good run, a damaged one, and a secret next to it."""
    root = tmp_path_factory.mktemp("outputs")
    (root.parent / "secret.txt").write_text(SECRET)
    records = [
        step(n, **{"critic/score/mean": n / 10, "critic/score/max": 1.0, "<b>odd</b>": 1.0, "actor/kl_loss": 1.5})
        for n in range(1, 9)
    ]
    good = make_run(root, "good", records)
    (good / "train.log").write_text("# attempt 1\nhello <script>\nRuntimeError: boom\n")
    dump(good / "rollouts", 8, [row("user\n<i>2+2?</i>\nassistant\n", f"<b>{n}</b>", n / 4, "a", n) for n in range(4)])
    (good / "checkpoints" / "global_step_8").mkdir(parents=True)
    damaged = make_run(root, "damaged", state="failed", reason="<img src=x>")
    (damaged / "run.json").write_bytes(os.urandom(200))
    (damaged / "metrics.jsonl").write_bytes(os.urandom(3000))
    (damaged / "train.log").mkdir()
    (damaged / "rollouts").write_text("a file")
    (root / "empty.log").write_text("")
    (root / "binary.log").write_bytes(os.urandom(5000))
    return root


class Server(threading.Thread):
    """The app on a port, a free one when none is given."""

    def __init__(self, app, port=0):
        super().__init__(daemon=True)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.server = uvicorn.Server(
            uvicorn.Config(app, port=int(self.url.rsplit(":")[-1]), log_level="error", timeout_graceful_shutdown=1)
        )
        self.start()
        end = time.monotonic() + 60
        while not self.server.started and time.monotonic() < end:
            time.sleep(0.05)

    def run(self):
        self.server.run()


@pytest.fixture(scope="module")
def server(logs):
    running = Server(build_app(logs))
    yield running.url
    running.server.should_exit = True
    running.join(10)


@pytest.fixture(scope="module")
def clients(server):
    return {language: Client(f"{server}/{language}/", verbose=False) for language in ("en", "zh")}


def fill(client, tab, *inputs):
    """What the server sends when a tab is filled; one text of all its outputs."""
    return json.dumps(client.predict(*inputs, api_name=f"/fill_{tab}"), ensure_ascii=False, default=str)


INPUTS = {
    "runs": (
        "RUN",
        "",
        "",
    ),
    "curves": ("RUN", [], 0.6, "step", [], ""),
    "compare": (["RUN"], [], 0.6, "step", ""),
    "samples": ("RUN", "rollouts", "newest", "high", ""),
    "health": ("RUN",),
    "system": ("RUN",),
    "log": ("RUN", "", ""),
    "checkpoints": ("RUN",),
}


def inputs_of(tab, run):
    return [[run] if value == ["RUN"] else run if value == "RUN" else value for value in INPUTS[tab]]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("run", ["good", "damaged", "empty.log", "binary.log", "../secret.txt", "", "gone"])
def test_every_tab_of_every_run_answers(clients, language, run):
    for tab in TABS:
        answer = fill(clients[language], tab, *inputs_of(tab, run))
        assert SECRET not in answer and "<img src=x>" not in answer
        for tag in ("<script>", "<b>0</b>", "<i>2+2?</i>"):
            assert tag not in answer, (tab, tag)


def test_what_the_tabs_say(clients):
    client = clients["en"]
    assert "0.8" in fill(client, "runs", "good", "", "") and "demo" in fill(client, "runs", "good", "demo", "finished")
    curves = fill(client, "curves", "good", [], 0.6, "step", [], "")
    assert "Reward (mean)" in curves and '"key": "kl_divergence"' in curves
    assert "since step 3" in fill(client, "health", "good") and "KL_LOSS_COEF" in fill(client, "health", "good")
    assert "自第 3 步起" in fill(clients["zh"], "health", "good")
    assert "&lt;i&gt;2+2?" in fill(client, "samples", "good", "rollouts", "newest", "high", "")
    assert "RuntimeError: boom" in fill(client, "log", "good", "", "")
    assert "Lines found: 1" in fill(client, "log", "good", "boom", "")
    assert "./test.sh --model_path" in fill(client, "checkpoints", "good")
    assert "GPU" in fill(client, "system", "good")


def test_news_changes_with_the_run(server, logs):
    def token(tab, run="news"):
        return httpx.get(f"{server}/news", params={"tab": tab, "run": run, "compared": [run]}).json()["token"]

    make_run(logs, "news", [step(1, loss=1.0)])
    time.sleep(1.1)
    before = {tab: token(tab) for tab in ("curves", "compare", "health", "log", "checkpoints", "samples")}
    assert before == {tab: token(tab) for tab in before}
    with (logs / "news" / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(step(2, loss=0.5)) + "\n")
    dump(logs / "news" / "rollouts", 2, [row("a", "b", 1.0)])
    (logs / "news" / "train.log").write_text("x\n")
    end = time.monotonic() + 2
    while time.monotonic() < end and any(token(tab) == before[tab] for tab in before):
        time.sleep(0.05)
    assert not [tab for tab in before if token(tab) == before[tab]]


def test_downloads(server):
    csv = httpx.get(f"{server}/csv", params={"run": "good", "metric": ["reward_mean"]})
    assert csv.text.splitlines()[:2] == ["step,reward_mean", "1,0.1"]
    assert "good.csv" in csv.headers["content-disposition"]
    png = httpx.get(f"{server}/png", params={"run": "good"}, timeout=60)
    assert png.content.startswith(b"\x89PNG")
    for kind in ("csv", "png"):
        assert httpx.get(f"{server}/{kind}", params={"run": "../secret.txt"}).status_code == 404


def test_the_page_needs_nothing_from_the_internet(server):
    page = httpx.get(f"{server}/en/")
    assert page.status_code == 200
    scripts = re.findall(r'<(?:script|link)[^>]*(?:src|href)="(https?://[^"]+)"', page.text)
    assert scripts == []
    assert httpx.get(f"{server}/assets/plotly.min.js").status_code == 200
    assert httpx.get(f"{server}/", follow_redirects=False).headers["location"] == "en/"


@pytest.mark.parametrize(
    "path",
    [
        "/en/gradio_api/file={outside}",
        "/en/gradio_api/file={inside}",
        "/en/file={outside}",
        "/en/gradio_api/file=../secret.txt",
        "/assets/../../secret.txt",
        "/assets/%2e%2e/%2e%2e/app.py",
        "/en/static/..%2f..%2f..%2fsecret.txt",
        "/csv?run=%2e%2e%2fsecret.txt",
        "/news?tab=log&run=../secret.txt",
        "/en/gradio_api/file=/etc/passwd",
    ],
)
def test_nothing_outside_the_log_folder_is_served(server, logs, path):
    address = path.format(outside=logs.parent / "secret.txt", inside=ROOT / "monitor" / "app.py")
    answer = httpx.get(server + address)
    assert SECRET not in answer.text and "root:x:" not in answer.text and "_find_packages" not in answer.text
    assert answer.status_code in (403, 404) or address.startswith("/news")


def test_the_password(logs):
    running = Server(build_app(logs, auth="ann:s3cret:x"))
    paths = ["/", "/en/", "/news?tab=runs", "/csv?run=good", "/assets/plotly.min.js", "/en/gradio_api/info"]
    good = {"Authorization": "Basic " + base64.b64encode(b"ann:s3cret:x").decode()}
    for path in paths:
        assert httpx.get(running.url + path).status_code == 401
        assert httpx.get(running.url + path, headers=good, follow_redirects=True).status_code == 200
    assert httpx.get(f"{running.url}/news?tab=runs", auth=("ann", "wrong")).status_code == 401
    running.server.should_exit = True


def app(*options, **environment):
    return subprocess.run(
        [sys.executable, "app.py", *options],
        cwd=ROOT / "monitor",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "0"], "1 to 65535"),
        (["--refresh", "0"], "0.2 to 60"),
        (["--auth", "nobody"], "user:password"),
        (["--lang", "fr"], "invalid choice"),
        (["--config", "/gone.yaml"], "/gone.yaml"),
        (["--host", "256.1.1.1"], "--host 256.1.1.1"),
    ],
)
def test_bad_options(options, said):
    done = app(*options)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_bad_config(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("prot: 1\n")
    done = app("--config", str(config))
    assert done.returncode == 2 and "prot" in done.stderr


def test_the_command_that_the_readme_gives(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = subprocess.Popen(
        [
            sys.executable,
            "-X",
            "importtime",
            "app.py",
            "--port",
            str(port),
            "--log_dir",
            str(tmp_path / "not-there-yet"),
        ],
        cwd=ROOT / "monitor",
        env={**os.environ, "MONITOR_AUTH": "ann:s3cret"},
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "imports").open("w"),
        text=True,
    )
    try:
        assert f"http://localhost:{port}" in started.stdout.readline()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/en/", auth=("ann", "s3cret")).status_code == 200
                break
            except httpx.ConnectError:
                time.sleep(0.2)
        else:
            pytest.fail("no answer")
        sent = [{"X-Forwarded-For": f"10.0.0.{number}"} for number in range(8)]  # who asks is not what the header says
        tried = [httpx.get(f"http://127.0.0.1:{port}/", auth=("ann", "x"), headers=one).status_code for one in sent]
        assert tried[0] == 401 and tried[-1] == 429
    finally:
        started.terminate()
        started.communicate(timeout=20)
    modules = {line.rpartition("|")[2].strip() for line in (tmp_path / "imports").read_text().splitlines()}
    assert "gradio" in modules and not {"torch", "verl", "transformers"} & modules
