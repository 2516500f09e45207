"""The real thing: a demo job of each kind of trainer through the API, from POST to a finished model."""

import json
import subprocess

import openpyxl
import pytest

from tests.conftest import ROOT
from tests.platform.conftest import wait_for
from tests.platform.test_push import numbers, states

pytestmark = [pytest.mark.nightly, pytest.mark.e2e]


def curl(platform, path, body=None, *options):
    """What curl prints of an address; a POST with a body (empty: none is sent)."""
    sends = [] if body is None else ["-X", "POST"] + (["--json", json.dumps(body)] if body else [])
    command = ["curl", "-sSN", "--fail-with-body", "--noproxy", "*", *sends, *options, f"{platform.url}{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, (path, done.stdout[-2000:], done.stderr)
    return done.stdout


def operation(platform, uuid, what, body):
    """Asks for an operation and waits for its end."""
    made = json.loads(curl(platform, f"/api/jobs/{uuid}/{what}", body))
    wait_for(lambda: json.loads(curl(platform, f"/api/operations/{made['id']}"))["state"] != "running", 600)
    return json.loads(curl(platform, f"/api/operations/{made['id']}"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("algorithm", "headline"), [("grpo", "policy_loss"), ("sft", "loss")])
def test_a_demo_job_by_curl(make_platform, tmp_path, algorithm, headline):
    """From POST over the stream of its messages to the finished model, its answers in Excel, and another checkpoint."""
    platform = make_platform(kit=ROOT)
    fields = {"algorithm": algorithm, "name": "demo", "num_gpus": 0, "knobs": {"TOTAL_STEPS": 3, "SAVE_FREQ": 2}}
    found = json.loads(curl(platform, "/api/jobs/check", fields))
    assert found["ok"], found["errors"]
    uuid = json.loads(curl(platform, "/api/jobs", fields))["uuid"]
    assert json.loads(curl(platform, f"/api/jobs/{uuid}/start", {}))["state"] == "queued"
    text = curl(platform, f"/api/jobs/{uuid}/events?types=state,metrics,validation")  # to the end of the job
    followed = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    job = json.loads(curl(platform, f"/api/jobs/{uuid}"))
    assert job["state"] == "finished" and job["exit_status"] == 0, (job["reason"], job["error"])
    assert states(followed) == ["created", "queued", "starting", "running", "finished"]
    rows = json.loads(curl(platform, f"/api/jobs/{uuid}/metrics"))
    before = [0] * (algorithm == "grpo")  # RL validates before the first step
    assert [row["step"] for row in rows] == [*before, 1, 2, 3]
    assert all(isinstance(row[headline], float) for row in rows if row["step"])
    assert {1, 2, 3} <= {step for step, _ in numbers(followed)}
    checkpoints = json.loads(curl(platform, f"/api/jobs/{uuid}/checkpoints"))
    assert [one["step"] for one in checkpoints] == [2, 3] and all(one["complete"] for one in checkpoints)
    assert (platform.options["outputs"] / "demo" / "model" / "config.json").is_file()
    merged = operation(platform, uuid, "merge", {"step": 3})
    assert merged["state"] == "finished" and merged["result"].endswith("/demo/model_step_3"), merged["text"]
    assert json.loads(curl(platform, f"/api/jobs/{uuid}/select", {"step": 2}))["step"] == 2
    made = operation(platform, uuid, "evaluate", {"limit": 5, "greedy": True, "max_new_tokens": 16})
    assert made["state"] == "finished", made["text"]
    curl(platform, f"/api/operations/{made['id']}/file", None, "-o", str(tmp_path / "answers.xlsx"))
    sheets = openpyxl.load_workbook(tmp_path / "answers.xlsx")
    cells = [str(cell.value) for sheet in sheets for row in sheet.iter_rows() for cell in row if cell.value is not None]
    assert len(cells) > 20 and any("demo step 2" in text for text in cells), sheets.sheetnames
    if algorithm == "grpo":
        assert checkpoints[-1]["eval_results"] and checkpoints[-1]["best"]
        assert json.loads(curl(platform, f"/api/jobs/{uuid}/samples?sort=high"))[0]["answer"]


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
