"""A platform on a kit whose train.sh files are stand-ins, behind a real web server."""

import shutil
import socket
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn

from common.preflight.knobs import BLOCK
from tests.conftest import ROOT
from training_platform.api.app import Options, build_app

STANDIN = Path(__file__).with_name("standin.py")


@pytest.fixture(scope="session")
def kit(tmp_path_factory):
    """A folder with the five algorithms: their own blocks of knobs, and a stand-in for what comes after."""
    folder = tmp_path_factory.mktemp("kit")
    for script in ROOT.glob("*/train.sh"):
        block = BLOCK.search(script.read_text()).group(0)
        made = folder / script.parent.name / "train.sh"
        made.parent.mkdir()
        lines = ["#!/usr/bin/env bash", "set -euo pipefail", "set -a", block, "set +a"]
        made.write_text("\n".join([*lines, f'exec "{sys.executable}" -S -E "{STANDIN}" "$@"', ""]))
        made.chmod(0o755)
    shutil.copytree(ROOT / "grpo" / "variants", folder / "grpo" / "variants")
    preflight = folder / "common" / "preflight"  # found first by `python -m common.preflight` in this folder
    preflight.mkdir(parents=True)
    (preflight / "__main__.py").write_text("""print('{"ok": true, "rows": [], "plan": null}')\n""")
    return folder


class Platform:
    """A server in a thread; `stop` ends it and leaves the jobs, `start` begins another on the same outputs."""

    def __init__(self, **options):
        self.options = options
        self.start()

    def start(self):
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.app = build_app(Options(**self.options, port=port))
        self.scheduler, self.store = self.app.state.scheduler, self.app.state.scheduler.store
        self.scheduler.first_wait = 0.2
        self.scheduler.gone_seconds = 0.5
        config = uvicorn.Config(
            self.app, log_level="warning", proxy_headers=False, lifespan="on", timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self.thread.start()
        wait_for(lambda: self.server.started)
        self.client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def stop(self):
        self.client.close()
        self.server.should_exit = True
        self.thread.join(20)

    def submit(self, start=True, does="", **fields):
        """Creates a job; `does` is what the stand-in is told."""
        knobs = {**fields.pop("knobs", {}), **({"WANDB_PROJECT": does} if does else {})}
        answer = self.client.post("/api/jobs", json={"algorithm": "grpo", "start": start, "knobs": knobs, **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()["uuid"]

    def job(self, uuid):
        return self.client.get(f"/api/jobs/{uuid}").json()

    def wait(self, uuid, *states, seconds=20):
        """Waits for one of some states; returns the job."""
        wait_for(lambda: self.job(uuid)["state"] in states, seconds, lambda: str(self.job(uuid)))
        return self.job(uuid)


def wait_for(what, seconds=20, about=lambda: ""):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"waited for {seconds} s in vain {about()}"
        time.sleep(0.02)


@pytest.fixture
def make_platform(kit, tmp_path):
    """Builds platforms; all of them end with the test."""
    made = []

    def make(**options):
        made.append(Platform(**{"outputs": tmp_path / "outputs", "kit": kit, "gpus": (), **options}))
        return made[-1]

    yield make
    for platform in made:
        if platform.thread.is_alive():
            for job in platform.store.in_states(("queued", "starting", "running", "stopping")):
                platform.client.post(f"/api/jobs/{job.uuid}/stop", json={"force": True})
            wait_for(lambda p=platform: not p.store.in_states(("queued", "starting", "running", "stopping")))
            platform.stop()


@pytest.fixture
def platform(make_platform):
    return make_platform()


@pytest.fixture
def spool(tmp_path, monkeypatch):
    """Spool files of the test, and no W&B login of the person who runs it."""
    folder = tmp_path / "spool"
    monkeypatch.setenv("TRAINING_PLATFORM_SPOOL", str(folder))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    return folder
