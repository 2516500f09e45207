"""Operations on checkpoints over the API, by the kit's own command."""

import json
import shutil
import zipfile

import pytest

from common.checkpoints.cli import main as checkpoints
from common.checkpoints.prune import to_remove
from common.checkpoints.selected import selected_step
from common.evaluation.model_path import find_model
from common.evaluation.settings import EvaluationError
from tests.platform.conftest import wait_for
from training_platform.client import PlatformClient, PlatformError


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


STUB = """#!/bin/sh
for one in "$@"; do
  printf '%s\\n' "$one"
  case "$one" in --output_file=*) mkdir -p "$(dirname "${one#*=}")"; printf 'PK' > "${one#*=}";; esac
done
printf 'gpu %s token %s\\n' "$CUDA_VISIBLE_DEVICES" "$PLATFORM_TOKEN"
[ ! -e WAIT ] || { while [ -e WAIT ]; do sleep 0.05; done; }
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Instead of Python: prints what it is given and makes the file; waits while the file that it returns is there."""
    waits = tmp_path / "waits"
    path = tmp_path / "python"
    path.write_text(STUB.replace("WAIT", str(waits)))
    path.chmod(0o755)
    monkeypatch.setattr("training_platform.api.processes.PYTHON", str(path))
    monkeypatch.setenv("PLATFORM_TOKEN", "secret")
    return waits


def test_evaluate_gives_the_file_back(platform, run, stub):
    post, folder = platform.client.post, platform.options["outputs"] / "run"
    asked = {"input": "/data/q.json", "step": 2, "compare": ["demo", "other"], "greedy": True, "limit": 5}
    found = ended(platform, post(f"/api/jobs/{run}/evaluate", json=asked))
    said = found["text"].splitlines()
    assert found["state"] == "finished" and found["result"].startswith(str(folder / "evaluation"))
    assert f"--model_path={folder}/checkpoints/global_step_2" in said and "--input_file=/data/q.json" in said
    assert {"--batch", "--greedy", "--n=1", "--limit=5", "--device=cpu"} <= set(said) and said[-1] == "gpu  token "
    assert said[said.index("--compare") : said.index("--compare") + 3] == ["--compare", "demo", "other"]
    answer = platform.client.get(f"/api/operations/{found['id']}/file")
    assert answer.content == b"PK" and found["result"].rpartition("/")[2] in answer.headers["content-disposition"]
    for wrong in ({"input": "--trust_remote_code"}, {"compare": ["demo", "-x"]}):
        assert "begins with a dash" in post(f"/api/jobs/{run}/evaluate", json=wrong).json()["error"]["message"]
    assert post(f"/api/jobs/{run}/evaluate", json={"step": 9}).status_code == 404
    verified = ended(platform, post(f"/api/jobs/{run}/verify"))
    assert platform.client.get(f"/api/operations/{verified['id']}/file").json()["error"]["code"] == "no_file"


def test_an_evaluation_has_a_slot_as_a_job_has(platform, run, stub):
    post = platform.client.post
    stub.touch()
    first = post(f"/api/jobs/{run}/evaluate").json()
    (slot,) = platform.client.get("/api/queue").json()["slots"]
    assert (slot["state"], slot["holder"]) == ("held", "evaluation of run")
    waits = platform.submit(name="waits")
    other = post("/api/jobs/waits/evaluate")
    assert other.status_code == 409
    assert platform.job(waits)["state"] == "queued"
    assert post(f"/api/operations/{first['id']}/stop").status_code == 202
    platform.wait(waits, "finished")
    assert platform.client.get(f"/api/operations/{first['id']}").json()["state"] == "failed"
    stub.unlink()
    assert ended(platform, post(f"/api/jobs/{run}/evaluate"))["state"] == "finished"


def test_select(platform, run):
    post, folder = platform.client.post, platform.options["outputs"] / "run"
    chosen = post(f"/api/jobs/{run}/select", json={"step": 2}).json()
    assert chosen == {"step": 2, "path": str(folder / "checkpoints" / "global_step_2")}
    there = platform.client.get(f"/api/jobs/{run}/checkpoints").json()
    assert [one["step"] for one in there if one["selected"]] == [2]
    source = find_model(str(folder))
    assert source.name == "run step 2" and source.path.endswith("global_step_2") and source.to_merge
    pruned = ended(platform, post(f"/api/jobs/{run}/prune", json={"keep": 1, "keep_best": False}))
    assert pruned["state"] == "finished" and {"global_step_2", "global_step_3"} == set(steps(platform))
    assert post(f"/api/jobs/{run}/select", json={"step": 1}).json()["error"]["code"] == "no_checkpoint"
    (folder / "checkpoints" / "global_step_3" / "complete.json").unlink()
    assert post(f"/api/jobs/{run}/select", json={"step": 3}).json()["error"]["code"] == "not_complete"
    shutil.rmtree(folder / "checkpoints" / "global_step_2")
    with pytest.raises(EvaluationError, match="names step 2, whose checkpoint is gone"):
        find_model(str(folder))
    assert post(f"/api/jobs/{run}/select", json={"step": None}).json() == {"step": None, "path": None}
    assert not (folder / "selected.json").exists()


def test_select_by_command(platform, run, capsys):
    folder = platform.options["outputs"] / "run"
    assert checkpoints(["select", str(folder), "--best", "val_score"]) == 0  # step 2 is the only one that was validated
    assert selected_step(folder) == 2 and selected_step(folder / "checkpoints") == 2
    assert [one.step for one, _ in to_remove(folder / "checkpoints", 1)] == [1]
    assert checkpoints(["select", str(folder), "--none"]) == 0 and selected_step(folder) is None
    assert checkpoints(["select", str(folder), "--step", "7"]) == 2
    assert "there are those of steps 1, 2, 3" in capsys.readouterr().err


def test_from_python(platform, run, stub, tmp_path, monkeypatch):
    with PlatformClient(platform.url, token="") as client:
        job = client.job(run)
        job.select(2)
        assert job.evaluate(tmp_path / "answers.xlsx", greedy=True).read_bytes() == b"PK"
        assert "--greedy" in job.operation("evaluate", greedy=True)["text"]
        with pytest.raises(PlatformError, match="begins with a dash"):
            job.operation("evaluate", input="-x")
        monkeypatch.setattr("training_platform.api.processes.PYTHON", "/bin/false")
        with pytest.raises(PlatformError, match="verify of run"):
            job.operation("verify")
