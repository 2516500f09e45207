"""The server killed with -9 at random moments: the queue, the runs and the streams of its clients."""

import json
import random
import threading
import time

import pytest

from tests.platform.conftest import wait_for
from tests.platform.server import Server
from tests.platform.test_queue import noted
from training_platform.client import PlatformClient

# What the stand-in is told, and how the job ends. The last one is stopped by its user.
TOLD = [
    *(("seconds={seconds},steps=12", "finished", None) for _ in range(7)),
    ("seconds={seconds},steps=12,end=fail", "failed", "trainer"),
    ("end=preflight", "failed", "preflight"),
    ("seconds=600,steps=2000", "stopped", None),
]


class Follower(threading.Thread):
    """A client that follows a job to its end; it is cut off with every server, and connects again by itself."""

    def __init__(self, url, uuid):
        super().__init__(daemon=True)
        self.job, self.found = PlatformClient(url).job(uuid), []
        self.start()

    def run(self):
        self.found = list(self.job.follow(types=["state", "metrics", "validation"]))

    @property
    def steps(self):
        rows = [row for one in self.found if one.type in ("metrics", "validation") for row in one.data["records"]]
        return [row["step"] for row in rows]

    @property
    def states(self):
        return [one.data["state"] for one in self.found if one.type == "state"]


def stop(server, uuid):
    assert server.client.post(f"/api/jobs/{uuid}/stop").status_code == 202


def ten_jobs_with_kills(server, tmp_path, dice, kills, longest):
    """Ten jobs of different priorities on two slots; returns the jobs as they ended, and who followed them."""
    ids, followers = [], []
    for n, (told, _, _) in enumerate(TOLD):
        knobs = {"WANDB_PROJECT": told.format(seconds=round(dice.uniform(0.1, longest), 1))}
        knobs["WANDB_ENTITY"] = str(tmp_path / "noted")
        body = {"algorithm": "grpo", "start": True, "name": f"job{n}", "priority": n % 3, "knobs": knobs}
        answer = server.client.post("/api/jobs", json=body)
        assert answer.status_code == 201, answer.text
        ids.append(answer.json()["uuid"])
        followers.append(Follower(server.url, ids[-1]))
    for kill in range(kills):
        time.sleep(dice.uniform(0.0, 0.6))
        server.kill()
        server.start()
        if kill == kills // 2:
            wait_for(lambda: server.client.get("/api/jobs/job9").json()["state"] == "running", 60)
            stop(server, ids[9])

    def ended():
        return [server.client.get(f"/api/jobs/{uuid}").json()["state"] for uuid in ids]

    wait_for(lambda: set(ended()) <= {"finished", "failed", "stopped"}, 120, lambda: str(ended()))
    for follower in followers:
        follower.join(30)
        assert not follower.is_alive()
    return [server.client.get(f"/api/jobs/{uuid}").json() for uuid in ids], followers


@pytest.mark.parametrize(("kills", "longest"), [(2, 1.0), pytest.param(30, 6.0, marks=pytest.mark.nightly)])
def test_killed_at_random_nothing_is_lost_and_nothing_starts_twice(tmp_path, kit, kills, longest):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    with Server(tmp_path / "outputs", kit) as server:
        jobs, followers = ten_jobs_with_kills(server, tmp_path, random.Random(seed), kills, longest)
    assert sorted(noted(tmp_path, "begin")) == sorted(noted(tmp_path, "end")) == [f"job{n}" for n in (*range(8), 9)]
    for job, (_, state, code), follower in zip(jobs, TOLD, followers, strict=True):
        assert (job["state"], job["reason_code"], job["attempts"]) == (state, code, 1), job
        path = tmp_path / "outputs" / job["name"] / "metrics.jsonl"
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []
        assert steps == list(range(1, len(steps) + 1)) and (state == "stopped" or len(steps) in (0, 12))
        assert follower.steps == steps  # each once and in order, over all the servers
        assert follower.states[:2] == ["created", "queued"] and follower.states[-1] == state
        assert len(set(follower.states)) == len(follower.states)
