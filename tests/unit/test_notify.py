"""Messages of a run: each once, with the right words, without a secret, and never waited for."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.metrics.names import HealthWarning
from common.notify.notifier import END_SECONDS, Notifier
from common.notify.secrets import without_secrets
from common.notify.send import addresses
from common.run_dir import metrics_path, update_run
from common.runner.attempt import Attempt
from common.runner.terminal import Terminal
from tests.conftest import ROOT

# Stands in for the package: posts the message to the address, as its json:// does.
APPRISE = """
import json, urllib.request
class Apprise:
    def __init__(self): self.urls = []
    @staticmethod
    def instantiate(url, **_): return url if "://" in url else None
    def add(self, url): self.urls.append(url.replace("json://", "http://")); return True
    def notify(self, title, body, notify_type):
        data = json.dumps({"title": title, "body": body, "kind": notify_type}).encode()
        return all(urllib.request.urlopen(url, data, timeout=60).status == 200 for url in self.urls)
"""


class Server:
    """Keeps what is posted; with `hangs` it never answers."""

    def __init__(self, hangs=False):
        self.messages, self.paths = [], []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.paths.append(self.path)
                server.messages.append(json.loads(body))
                if hangs:
                    time.sleep(30)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")  # Slack's word

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.address = f"json://127.0.0.1:{self.http.server_address[1]}/secret-token-of-mine"

    def wait(self, count, seconds=30.0):
        until = time.monotonic() + seconds
        while len(self.messages) < count and time.monotonic() < until:
            time.sleep(0.05)
        return [(one["title"], one["body"]) for one in self.messages]


@pytest.fixture
def server():
    started = Server()
    yield started
    started.http.shutdown()


@pytest.fixture
def environment(tmp_path, server):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "apprise.py").write_text(APPRISE)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "fake"), "NOTIFY_URLS": server.address}


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    update_run(folder, algorithm="grpo", attempt=1)
    return folder


def test_each_event_once_over_all_attempts(run_dir, environment, server):
    for _ in range(2):  # two attempts
        notifier = Notifier(run_dir, environment, "grpo")
        notifier.warning("entropy", "Entropy 0.01: no longer explores")
        notifier.best(10, "validation score", 0.75)
        assert notifier.close() == []
    assert sorted(server.wait(2)) == [
        ("grpo mine: best validation score 0.75", "at step 10"),
        ("grpo mine: warning", "Entropy 0.01: no longer explores"),
    ]
    time.sleep(0.2)
    assert len(server.messages) == 2


@pytest.mark.parametrize(("level", "kinds"), [("info", 3), ("warn", 2), ("error", 1)])
def test_the_level(run_dir, environment, monkeypatch, level, kinds):
    started = []
    monkeypatch.setattr("common.notify.notifier.start", lambda *message: started.append(message))
    notifier = Notifier(run_dir, {**environment, "NOTIFY_LEVEL": level})
    notifier.under_way = []
    monkeypatch.setattr(notifier, "under_way", [], raising=False)
    for kind in ("info", "warn", "error"):
        notifier.under_way = []
        notifier.tell(kind, kind, "", kind)
    assert len(started) == kinds


def test_without_addresses_nothing_is_started(run_dir, monkeypatch):
    monkeypatch.setattr("common.notify.notifier.start", lambda *_: pytest.fail("started"))
    assert not Notifier(run_dir, {}).tell("failed", "failed", "", "error")
    assert not (run_dir / "notified.json").exists()


def test_a_server_that_hangs_costs_less_than_five_seconds(run_dir, environment):
    hanging = Server(hangs=True)
    notifier = Notifier(run_dir, {**environment, "NOTIFY_URLS": hanging.address})
    started = time.monotonic()
    notifier.tell("finished:1", "finished", "")
    assert time.monotonic() - started < 0.5
    assert notifier.close() == ["a message of NOTIFY_URLS is still under way"]
    assert END_SECONDS <= time.monotonic() - started < 5.0


def test_no_secret_leaves(run_dir, environment, server):
    environment |= {"API_REWARD_KEY": "abcdef123456", "SHORT_KEY": "a"}
    body = f"401 for abcdef123456 at https://u:pw@host with sk-abcdefghijklmnop, {environment['NOTIFY_URLS']}"
    notifier = Notifier(run_dir, environment)
    notifier.tell("failed:1", "failed", body, "error")
    notifier.close()
    ((_, sent),) = server.wait(1)
    assert sent == "401 for *** at https://***@host with ***, ***"
    assert without_secrets("a word that is a word", environment) == "a word that is a word"
    assert "secret-token" not in (run_dir / "notified.json").read_text()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a://x b://y", ["a://x", "b://y"]),
        ("a://x,b://y\nc://z", ["a://x", "b://y", "c://z"]),
        ("mailto://u:p@h?to=a@b,c@d slack://a/b/c", ["mailto://u:p@h?to=a@b,c@d", "slack://a/b/c"]),
        ("", []),
    ],
)
def test_addresses(text, found):
    assert addresses({"NOTIFY_URLS": text}) == found


class Told:
    """A notifier that keeps what it is told."""

    on = True

    def __init__(self):
        self.heard = []

    def warning(self, name, text):
        self.heard.append(("warning", name))

    def best(self, step, words, score):
        self.heard.append(("best", step, score))

    def tell(self, kind, what, body, level="info"):
        self.heard.append((kind, what, body, level))

    def close(self):
        return []


def test_the_terminal_tells_warnings_and_scores_that_beat_all_before(run_dir, monkeypatch):
    earlier = [{"step": step, "data": {"val-core/x/acc/mean@1": score}} for step, score in ((0, 0.1), (5, 0.6))]
    metrics_path(run_dir, 1).write_text("".join(json.dumps(record) + "\n" for record in earlier))
    told = Told()
    terminal = Terminal(run_dir, False, 32, told)
    warning = HealthWarning("entropy", 0.0, "no longer explores")
    monkeypatch.setattr("common.runner.terminal.check_health", lambda *_: [warning])
    for step, score in ((10, 0.5), (15, 0.7)):
        terminal.records([{"step": step, "data": {"actor/pg_loss": 0.1, "val-core/x/acc/mean@1": score}}])
    assert told.heard == [("warning", "entropy"), ("best", 15, 0.7)]
    assert terminal.outcome().splitlines()[0] == "validation score 0.500 -> 0.700 (best 0.700 at step 15)"
    assert math.isfinite(float(terminal.outcome().splitlines()[-1].split()[0]))


def test_how_it_ended_is_told_with_cause_knob_and_line(tmp_path, monkeypatch, capsys):
    knobs = {"MODEL_PATH": "demo", "DEVICE": "cpu", "TRAIN_DATA": "a", "VAL_DATA": "b", "TOTAL_STEPS": "1"}
    environment = {**os.environ, "RUN_DIR": str(tmp_path / "run"), "KNOBS_JSON": json.dumps(knobs), "ALGORITHM": "grpo"}
    script = "print('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB'); raise SystemExit(1)"
    attempt = Attempt([sys.executable, "-c", script], environment)
    attempt.notifier = Told()
    assert attempt.run() != 0
    ((kind, what, body, level),) = attempt.notifier.heard
    assert (kind, what, level) == ("failed:1", "failed", "error")
    assert "memory" in body and "TOKENS_PER_GPU" in body and "train.log, line 2" in body


def test_a_launcher_that_is_killed_is_told_and_the_trainer_sees_no_address(run_dir, environment, server):
    seen = run_dir / "seen"
    trainer = f"import os, time; open({str(seen)!r}, 'w').write(os.environ.get('NOTIFY_URLS', 'none')); time.sleep(60)"
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "common.runner.supervisor", str(run_dir), "--", sys.executable, "-c", trainer],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
    )
    until = time.monotonic() + 30
    while not (seen.exists() and seen.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    supervisor.stdin.close()  # as when its launcher is gone
    supervisor.wait(30)
    ((title, body),) = server.wait(1)
    assert title == "grpo mine: died" and "was killed" in body
    assert seen.read_text() == "none"


def test_try_says_what_came_of_each_address_without_showing_it(environment, server):
    bad = "json://127.0.0.1:9/secret-token-of-mine"
    done = subprocess.run(
        [sys.executable, "-m", "common.notify", "try"],
        env={**environment, "NOTIFY_URLS": f"{server.address} {bad}", "PYTHONPATH": environment["PYTHONPATH"]},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and lines[0].startswith("1. json: taken") and lines[1].startswith("2. json: not taken")
    assert "secret-token" not in done.stdout + done.stderr


def test_the_package_is_asked_for_before_the_start():
    from common.preflight.environment import check_notify
    from common.preflight.knobs import read_knobs

    knobs = read_knobs("grpo", {})
    check_notify(knobs, {"NOTIFY_URLS": "feishu://very-secret-token", "NOTIFY_LEVEL": "loud"})
    texts = [str(error) for error in knobs.errors]
    assert any("must be info | warn | error" in text for text in texts)
    assert "very-secret-token" not in "".join(texts)
    assert Path(ROOT / "requirements" / "lock-notify.txt").is_file()
