"""The real thing: a demo job of each kind of trainer through the API, from POST to a finished model."""

import pytest

from tests.conftest import ROOT
from tests.platform.conftest import wait_for
from tests.platform.test_operations import ended
from tests.platform.test_push import numbers, states, stream

pytestmark = [pytest.mark.nightly, pytest.mark.e2e]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("algorithm", "headline"), [("grpo", "policy_loss"), ("sft", "loss")])
def test_a_demo_job(make_platform, algorithm, headline):
    platform = make_platform(kit=ROOT)
    fields = {"algorithm": algorithm, "name": "demo", "num_gpus": 0, "knobs": {"TOTAL_STEPS": 3}}
    found = platform.client.post("/api/jobs/check", json=fields, timeout=300).json()
    assert found["ok"], found["errors"]
    uuid = platform.client.post("/api/jobs", json={**fields, "start": True}).json()["uuid"]
    followed = stream(platform, f"/api/jobs/{uuid}/events", types="state,metrics,validation")
    job = platform.job(uuid)
    assert job["state"] == "finished" and job["exit_status"] == 0, (job["reason"], job["error"])
    assert states(followed) == ["created", "queued", "starting", "running", "finished"]
    rows = platform.client.get(f"/api/jobs/{uuid}/metrics").json()
    assert [row["step"] for row in rows] == [1, 2, 3] and all(isinstance(row[headline], float) for row in rows)
    assert {1, 2, 3} <= {step for step, _ in numbers(followed)}
    checkpoints = platform.client.get(f"/api/jobs/{uuid}/checkpoints").json()
    assert checkpoints[-1]["step"] == 3 and checkpoints[-1]["complete"]
    assert (platform.options["outputs"] / "demo" / "model" / "config.json").is_file()
    merged = ended(platform, platform.client.post(f"/api/jobs/{uuid}/merge", json={"step": 3}))
    assert merged["state"] == "finished" and merged["result"].endswith("/demo/model_step_3"), merged["text"]
    if algorithm == "grpo":
        assert checkpoints[-1]["eval_results"] and checkpoints[-1]["best"]
        assert platform.client.get(f"/api/jobs/{uuid}/samples?sort=high").json()[0]["answer"]


@pytest.mark.timeout(900)
def test_a_demo_job_that_is_stopped_goes_on(make_platform):
    """Stopped over the API while it trains, then resumed: the steps continue after those that a checkpoint holds."""
    platform = make_platform(kit=ROOT)
    knobs = {"TOTAL_STEPS": 60, "SAVE_FREQ": 5}
    uuid = platform.submit(algorithm="sft", name="demo", num_gpus=0, knobs=knobs)
    wait_for(lambda: len(platform.client.get(f"/api/jobs/{uuid}/checkpoints").json()) > 0, 300)
    assert platform.client.post(f"/api/jobs/{uuid}/stop").status_code == 202
    assert platform.wait(uuid, "stopped", "finished", seconds=120)["state"] == "stopped"
    assert platform.client.post(f"/api/jobs/{uuid}/resume").status_code == 202
    assert platform.wait(uuid, "finished", "failed", seconds=400)["state"] == "finished"
    rows = platform.client.get(f"/api/jobs/{uuid}/metrics").json()
    assert [row["step"] for row in rows] == list(range(1, 61)) and platform.job(uuid)["attempts"] == 2
