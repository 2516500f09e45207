"""Apprise itself, with a local server in place of Feishu, DingTalk and Slack."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
import time

import pytest

from common.notify.notifier import Notifier
from common.run_dir import update_run
from tests.conftest import ROOT
from tests.unit.test_notify import Server

pytestmark = pytest.mark.nightly
URLS = "feishu://abcdefgh-token-1 dingtalk://abcdefghtoken2 slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """What requirements/lock-notify.txt pins, in a folder of its own."""
    folder = tmp_path_factory.mktemp("apprise")
    lock = str(ROOT / "requirements" / "lock-notify.txt")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "-r", lock]
    subprocess.run([*command, "--target", str(folder)], check=True)
    return folder


def text_of(message):
    """The words of a message, whatever the service's form is."""
    return html.unescape(json.dumps(message, ensure_ascii=False))


def test_each_service_gets_each_event_once(package, tmp_path):
    server = Server()
    run_dir = tmp_path / "mine"
    run_dir.mkdir()
    update_run(run_dir, algorithm="grpo")
    path = os.pathsep.join((str(ROOT / "tests" / "unit" / "redirected"), str(package)))
    stand_in = server.address.replace("json://", "http://").rpartition("/")[0]
    environment = {**os.environ, "PYTHONPATH": path, "NOTIFY_URLS": URLS, "STAND_IN": stand_in}
    told = {
        "failed:1": ("failed", "CUDA out of memory\nfix: lower TOKENS_PER_GPU\nlog: train.log, line 812", "error"),
        "died:2": ("died", "the launcher on node-7 was killed", "error"),
        "warning:entropy": ("warning", "Entropy 0.01: raise TEMPERATURE", "warn"),
        "stopped early:3": ("stopped early", "step 40: the validation score has not improved", "info"),
        "finished:4": ("finished", "validation score 0.100 -> 0.700", "info"),
        "best:30": ("best validation score 0.75", "at step 30", "info"),
    }
    for _ in range(2):
        notifier = Notifier(run_dir, environment, "grpo")
        for kind, (what, body, level) in told.items():
            notifier.tell(kind, what, body, level)
        until = time.monotonic() + 120
        while any(process.poll() is None for process in notifier.under_way) and time.monotonic() < until:
            time.sleep(0.1)
        assert notifier.close() == []
    by_host = {}
    for place, message in zip(server.paths, server.messages, strict=True):
        by_host.setdefault(place.split("/")[1], []).append(text_of(message))
    assert set(by_host) == {"open.feishu.cn", "oapi.dingtalk.com", "hooks.slack.com"}
    for host, messages in by_host.items():
        assert len(messages) == len(told), host
        for what, body, _ in told.values():
            found = [text for text in messages if f"grpo mine: {what}" in text and body.splitlines()[-1] in text]
            assert len(found) == 1, (host, what, messages)
