"""Operations on checkpoints over the API, by the kit's own command."""

import json
import zipfile

import pytest

from tests.platform.conftest import wait_for


@pytest.fixture
def run(platform):
    """A finished job with whole checkpoints of steps 1, 2 and 3 (as far as their names, sizes and archives tell)."""
    uuid = platform.submit(name="run")
    platform.wait(uuid, "finished")
    for step in (1, 2, 3):
        folder = platform.options["outputs"] / "run" / "checkpoints" / f"global_step_{step}" / "actor"
        folder.mkdir(parents=True)
        (folder / "fsdp_config.json").write_text('{"world_size": 1}')
        for kind in ("model", "optim", "extra_state"):
            with zipfile.ZipFile(folder / f"{kind}_world_size_1_rank_0.pt", "w") as archive:
                archive.writestr("data.pkl", b"x" * 100)
        files = {str(path.relative_to(folder.parent)): path.stat().st_size for path in folder.iterdir()}
        (folder.parent / "complete.json").write_text(json.dumps({"files": files}))
    return uuid


def ended(platform, answer):
    assert answer.status_code == 202, answer.text
    name = answer.json()["id"]
    wait_for(lambda: platform.client.get(f"/api/operations/{name}").json()["state"] != "running", 90)
    return platform.client.get(f"/api/operations/{name}").json()


def steps(platform):
    return sorted(
        path.name for path in (platform.options["outputs"] / "run" / "checkpoints").iterdir() if path.is_dir()
    )


def test_verify_and_prune(platform, run):
    post = platform.client.post
    torn = (
        platform.options["outputs"] / "run" / "checkpoints" / "global_step_1" / "actor" / "optim_world_size_1_rank_0.pt"
    )
    torn.write_bytes(torn.read_bytes()[:50])
    found = ended(platform, post(f"/api/jobs/{run}/verify"))
    assert found["state"] == "failed" and "optim_world_size_1_rank_0.pt" in found["text"], found
    pruned = ended(platform, post(f"/api/jobs/{run}/prune", json={"keep": 1, "keep_best": False}))
    assert pruned["state"] == "finished", pruned["text"]
    assert "global_step_3" in steps(platform) and "global_step_2" not in steps(platform)
    kinds = [one["kind"] for one in platform.client.get("/api/operations").json()]
    assert kinds == ["prune", "verify"]


def test_what_is_refused(platform, run):
    post = platform.client.post
    assert post(f"/api/jobs/{run}/merge", json={"step": 9}).json()["error"]["code"] == "no_checkpoint"
    assert post(f"/api/jobs/{run}/merge", json={"to": "/etc"}).status_code == 422
    assert post("/api/jobs/nothing/verify").status_code == 404
    created = platform.submit(start=False)
    assert post(f"/api/jobs/{created}/verify").json()["error"]["code"] == "wrong_state"
    assert platform.client.get("/api/operations/nothing").json()["error"]["code"] == "no_operation"
    first = post(f"/api/jobs/{run}/verify")
    assert post(f"/api/jobs/{run}/average").json()["error"]["code"] == "busy"
    ended(platform, first)
    runs = platform.submit(name="runs", does="seconds=30")
    platform.wait(runs, "running")
    assert post(f"/api/jobs/{runs}/prune").json()["error"]["code"] == "wrong_state"
