"""Five minutes of schemathesis on every route: whatever it sends, no 500, no traceback, nothing outside the roots."""

import os
import subprocess
import venv

import pytest

from tests.platform.server import Server

pytestmark = pytest.mark.nightly
SCHEMATHESIS = "schemathesis==4.32.5"  # in an environment of its own: nothing else of the kit needs it
SECONDS = 300


@pytest.fixture(scope="module")
def schemathesis(tmp_path_factory):
    """The command; SCHEMATHESIS names one that is there already."""
    if given := os.environ.get("SCHEMATHESIS"):
        return given
    folder = tmp_path_factory.mktemp("schemathesis")
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", SCHEMATHESIS], check=True, timeout=600)
    return folder / "bin" / "schemathesis"


def tree(folder, leave):
    """Every file under a folder but one part of it, with its size and time."""
    found = [path for path in folder.rglob("*") if leave not in (path, *path.parents) and path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


@pytest.mark.timeout(1500)
def test_nothing_that_is_sent_breaks_it(schemathesis, tmp_path, kit):
    outputs, beside = tmp_path / "place" / "outputs", tmp_path / "place" / "beside"
    beside.mkdir(parents=True)
    (beside / "metrics.jsonl").write_text('{"step": 1, "data": {"secret": 1}}\n')
    before = tree(tmp_path / "place", outputs) | tree(kit, tmp_path)
    log = (tmp_path / "server.log").open("wb")
    with Server(outputs, kit, tick=0.25, stderr=log, python="/bin/true") as server:
        assert server.client.post("/api/jobs/check", json={"algorithm": "grpo"}).json()["ok"]
        for name, told in (("run", "steps=4"), ("bad", "end=fail"), ("long", "seconds=2000")):
            body = {"algorithm": "grpo", "name": name, "start": True, "knobs": {"WANDB_PROJECT": told}}
            assert server.client.post("/api/jobs", json=body).status_code == 201
        command = [schemathesis, "run", f"{server.url}/openapi.json", "--checks", "not_a_server_error"]
        command += ["--max-time", str(SECONDS), "--continue-on-failure", "--request-timeout", "120", "--workers", "2"]
        command += ["--exclude-path-regex", "events$"]  # streams do not end
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
        print(done.stdout[-6000:])
        assert server.client.get("/api/health").json()["status"] == "ok"
        for job in server.client.get("/api/jobs?limit=1000&state=running").json():
            server.client.post(f"/api/jobs/{job['uuid']}/stop", json={"force": True})
    said = (tmp_path / "server.log").read_text(errors="replace")
    assert "Traceback" not in said, said[-4000:]
    assert tree(tmp_path / "place", outputs) | tree(kit, tmp_path) == before
    assert done.returncode == 0, done.stdout[-6000:]
