"""The platform on a real Ray, whose GPUs are only counted here: reserved, followed, stopped; and a demo job."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, free_port
from tests.platform.conftest import wait_for
from training_platform.queue import ray_cluster

pytestmark = [pytest.mark.nightly, pytest.mark.e2e, pytest.mark.timeout(1800)]
RAY = Path(sys.executable).parent / "ray"


@pytest.fixture
def ray_address(tmp_path_factory, tmp_path, monkeypatch):
    """A head with two GPUs that asks for a token, started as docs/platform.md says; ended with the test."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path_factory.mktemp("r")  # Ray's sockets have short names
    port, dashboard = free_port(), free_port()
    command = [
        *(str(RAY), "start", "--head", "--block", "--disable-usage-stats", "--num-gpus=2", "--num-cpus=16"),
        *("--node-ip-address=127.0.0.1", f"--port={port}", f"--dashboard-port={dashboard}", "--include-dashboard=true"),
        *(f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}"),
    ]
    environment = {**os.environ, "PATH": f"{RAY.parent}:{os.environ['PATH']}"}
    with (tmp_path / "ray.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"

    def answers():
        assert head.poll() is None, (tmp_path / "ray.log").read_text()
        try:
            return bool(ray_cluster.connect(address).machines())
        except ConnectionError:
            return False

    try:
        wait_for(answers, 180)
        yield address
    finally:
        head.terminate()  # `ray start --block` ends what it has started
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            head.kill()


def test_gpus_are_reserved_and_a_stop_leaves_the_state(ray_address, make_platform):
    """A job waits for the GPUs of another; a run that Ray stops has time to write how it ended."""
    platform = make_platform(gpus=None, ray=ray_address, cpu_jobs=1)
    first = platform.submit(name="first", num_gpus=2, does="seconds=300")
    second = platform.submit(name="second", num_gpus=1, does="seconds=1")
    platform.wait(first, "running", seconds=120)
    client = ray_cluster.connect(ray_address)
    wait_for(lambda: client.machines()[0].used == 2, 60)
    assert platform.job(second)["state"] == "queued" and len(platform.job(first)["gpus"]) == 2
    platform.stop()
    platform.start()
    assert platform.job(first)["state"] == "running"
    platform.client.post(f"/api/jobs/{first}/stop")
    job = platform.wait(first, "stopped", seconds=60)
    assert job["reason"] == "SIGTERM", job
    job = platform.wait(second, "finished", seconds=120)
    assert (job["attempts"], job["exit_status"]) == (1, 0)
    log = platform.client.get(f"/api/jobs/{second}/log?source=launch").json()["text"]
    assert "Running entrypoint for job" in log and "0123456789abcdef" not in log
    refused = platform.wait(platform.submit(num_gpus=1, does="end=preflight"), "failed", seconds=120)
    assert (refused["reason_code"], refused["exit_status"]) == ("preflight", 2) and "MODEL_PATH" in refused["reason"]
    details = {one.submission_id: one for one in client.list_jobs()}
    assert len(details) == 3 and "0123456789abcdef" not in repr(details)
    wait_for(lambda: client.machines()[0].used == 0, 60)


def test_a_demo_job(ray_address, make_platform):
    """GRPO on the CPU: the run has its own Ray below the cluster's, and leaves its model in the outputs."""
    platform = make_platform(kit=ROOT, gpus=None, ray=ray_address, cpu_jobs=1)
    knobs = {"TOTAL_STEPS": 2, "BATCH_SIZE": 8, "SAVE_FREQ": 2, "USE_WANDB": "false"}
    uuid = platform.submit(name="demo", num_gpus=0, knobs=knobs)
    job = platform.wait(uuid, "finished", "failed", seconds=1200)
    log = platform.client.get(f"/api/jobs/{uuid}/log?source=launch").json()["text"]
    assert job["state"] == "finished" and job["backend"] == "ray", (job, log[-3000:])
    assert [row["step"] for row in platform.client.get(f"/api/jobs/{uuid}/metrics").json()] == [0, 1, 2]
    assert (platform.options["outputs"] / "demo" / "model" / "config.json").is_file()
