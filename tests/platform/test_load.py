"""How the server bears a long run, many jobs and many clients; a server of its own, so that its costs can be told."""

import json
import threading
import time

import httpx
import pytest

from tests.platform.conftest import wait_for
from tests.platform.server import Server
from training_platform.api.app import HIDDEN
from training_platform.queue.store import Store, now

pytestmark = pytest.mark.nightly
STEPS = 100_000
REST = {"algorithm": "grpo", "state": "finished", "name": "long", "model": "demo", "knobs": {}, "host": "elsewhere"}


@pytest.fixture
def server(tmp_path, kit):
    with Server(tmp_path / "outputs", kit, tick=0.25) as made:
        yield made


def long_run(outputs):
    """A run of 100,000 steps of sixty metrics: 220 MB."""
    folder = outputs / "long"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(REST))
    names = ["actor/pg_loss", "actor/entropy", "critic/score/mean", "response_length/mean"]
    names += [f"timing_s/part_{n}" for n in range(28)] + [f"perf/figure_{n}" for n in range(28)]
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, STEPS + 1):
            values = ", ".join(f'"{name}": {(step * place % 9973) / 7919}' for place, name in enumerate(names, 1))
            file.write(f'{{"step": {step}, "data": {{{values}}}}}\n')
    return folder


def resident(server):
    return server.about.memory_info().rss / 2**20


def answer(server, path):
    """Seconds to the first byte and to the last, the number of bytes, and the most MiB the server had meanwhile."""
    began, first, size, most = time.monotonic(), None, 0, 0.0
    with httpx.stream("GET", f"{server.url}{path}", timeout=600, trust_env=False) as got:
        assert got.status_code == 200
        for part in got.iter_raw():
            first = first or time.monotonic() - began
            size += len(part)
            most = max(most, resident(server))
    return first, time.monotonic() - began, size, most


@pytest.mark.timeout(900)
def test_a_run_of_a_hundred_thousand_steps(server, tmp_path):
    long_run(tmp_path / "outputs")
    server.client.get("/api/jobs", timeout=60)  # what starts with the first question of all
    for path in ("metrics", "metrics?raw=true", "metrics.csv", "metrics?last=1", "metrics?after_step=99990"):
        before = resident(server)
        first, whole, size, most = answer(server, f"/api/jobs/long/{path}")
        print(f"{path}: first byte {first:.2f} s, all {whole:.1f} s, {size / 1e6:.1f} MB, +{most - before:.0f} MiB")
        assert most - before < 60 and (first < 10 or path == "metrics.csv"), path  # 0.4 s on a machine at rest
    began = time.monotonic()
    assert server.client.get("/api/jobs/long/checkpoints").json() == []
    print(f"checkpoints {time.monotonic() - began:.2f} s")


def ask(server, method, path, **options):
    began = time.monotonic()
    found = server.client.request(method, path, **options)
    assert found.is_success, found.text
    return found, time.monotonic() - began


def cpu_share(server, seconds):
    """Of one core."""
    before = sum(server.about.cpu_times()[:2])
    time.sleep(seconds)
    return (sum(server.about.cpu_times()[:2]) - before) / seconds


def waiting_jobs(outputs, count):
    """Jobs that an earlier server has left in the queue."""
    store = Store(outputs / HIDDEN)
    content = {"asked": {"algorithm": "grpo"}, "folder": "grpo", "environment": {"WANDB_PROJECT": "seconds=900"}}
    content |= {"overrides": [], "warnings": [], "max_restarts": 0}
    with store.transaction():
        for n in range(count):
            store.add(f"id{n}", run=f"n{n}", slots={"cpu": 1}, priority=0, request=content)
            store.change(f"id{n}", state="queued", place=n + 1, queued_at=now())
    store.close()


@pytest.mark.timeout(900)
def test_ten_thousand_jobs(tmp_path, kit):
    """Listed and found while they wait, and what they cost a server that has nothing to do."""
    waiting_jobs(tmp_path / "outputs", 10_000)
    with Server(tmp_path / "outputs", kit, tick=0.25) as server:
        wait_for(lambda: len(server.client.get("/api/jobs?state=running").json()) == 2, 60)
        for path in ("/api/jobs", "/api/jobs?limit=1000", "/api/jobs?q=n9999", "/api/queue", "/api/jobs/id5000"):
            found, seconds = ask(server, "GET", path)
            print(f"GET {path}: {seconds:.2f} s, {len(found.content) / 1e6:.2f} MB")
            assert seconds < 5
        assert server.client.get("/api/jobs/id5000").json()["queue"]["position"] == 5000 - 1
        _, seconds = ask(server, "POST", "/api/jobs", json={"algorithm": "grpo", "name": "n7", "start": True})
        print(f"a further one made in {seconds:.2f} s")
        share = cpu_share(server, 15)
        print(f"10,000 waiting jobs: {share:.1%} of a core")
        for n in (0, 1):
            ask(server, "POST", f"/api/jobs/id{n}/stop")
        assert share < 0.1


@pytest.mark.timeout(300)
def test_idle_clients_cost_little(server):
    """Ten clients follow a run that says nothing."""
    uuid = server.client.post(
        "/api/jobs", json={"algorithm": "grpo", "start": True, "knobs": {"WANDB_PROJECT": "seconds=900,steps=1"}}
    ).json()["uuid"]
    alone = cpu_share(server, 15)

    def follow():
        with httpx.stream("GET", f"{server.url}/api/jobs/{uuid}/events", timeout=90, trust_env=False) as got:
            for _ in got.iter_raw():
                pass

    for _ in range(10):
        threading.Thread(target=follow, daemon=True).start()
    time.sleep(3)
    share = cpu_share(server, 30)
    print(f"no client {alone:.1%}, ten idle clients {share:.1%} of a core")
    server.client.post(f"/api/jobs/{uuid}/stop")
    assert share < 0.03
