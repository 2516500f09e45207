"""The job API: from a request to a finished run, and every way to refuse."""

import json
import os
import time

import httpx
import pytest

from tests.conftest import ROOT
from tests.platform.conftest import wait_for
from training_platform.queue import knobs
from training_platform.queue.request import JobRequest
from training_platform.queue.store import Store, StoreInUseError


def translated(kit, **fields):
    return knobs.translate(JobRequest(**{"algorithm": "grpo", **fields}), kit, kit)


def test_each_field_becomes_the_knob_of_its_algorithm():
    """By hand, from the scripts: what a person would have typed in front of ./grpo/train.sh."""
    fields = {
        "model_path": "Qwen/Qwen2.5-7B-Instruct", "train_data_path": ["a.parquet", "b.parquet"],
        "eval_data_path": "c.parquet", "num_gpus": 8, "learning_rate": 1e-6, "batch_size": 1024, "num_epochs": 15,
        "context_length": 1536, "rollout_n": 5, "kl_coef": 0.001,
    }  # fmt: skip
    made = translated(ROOT, **fields)
    assert made.environment == {
        "MODEL_PATH": "Qwen/Qwen2.5-7B-Instruct", "TRAIN_DATA": "a.parquet,b.parquet", "VAL_DATA": "c.parquet",
        "N_GPUS": "8", "LEARNING_RATE": "1e-06", "BATCH_SIZE": "1024", "TOTAL_EPOCHS": "15", "ROLLOUT_N": "5",
        "MAX_PROMPT_LENGTH": "512", "MAX_RESPONSE_LENGTH": "1024", "KL_LOSS_COEF": "0.001",
    }  # fmt: skip
    assert translated(ROOT, algorithm="ppo", kl_coef=0.5).environment == {"KL_COEF": "0.5"}
    assert translated(ROOT, algorithm="sft", context_length=4096).environment == {"MAX_LENGTH": "4096"}
    dapo = translated(ROOT, algorithm="dapo", num_gpus=0)
    assert (dapo.algorithm, dapo.environment) == ("grpo", {"VARIANT": "dapo", "DEVICE": "cpu"})
    divided = translated(ROOT, context_length=1000, knobs={"MAX_PROMPT_LENGTH": 200})
    assert divided.environment == {"MAX_PROMPT_LENGTH": "200", "MAX_RESPONSE_LENGTH": "800"}
    switch = translated(ROOT, algorithm="gspo", knobs={"HARVEST_PAIRS": True}).environment
    assert switch == {"HARVEST_PAIRS": "true"}


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"algorithm": "gprpo"}, "algorithm", "did you mean grpo?"),
        ({"algorithm": "sft", "rollout_n": 5}, "rollout_n", "sft has no ROLLOUT_N"),
        ({"algorithm": "dpo", "kl_coef": 0.1}, "kl_coef", "dpo has no KL_LOSS_COEF"),
        ({"knobs": {"LERNING_RATE": 1}}, "knobs.LERNING_RATE", "did you mean LEARNING_RATE?"),
        ({"knobs": {"EXPERIMENT_NAME": "x"}}, "knobs.EXPERIMENT_NAME", "use the field name"),
        ({"knobs": {"TEMPERATURE": -1}}, "knobs.TEMPERATURE", "must be a number above 0"),
        ({"learning_rate": 1e-6, "knobs": {"LEARNING_RATE": "2e-6"}}, "knobs.LEARNING_RATE", "learning_rate sets"),
        ({"algorithm": "dapo", "knobs": {"VARIANT": "rloo"}}, "algorithm", "sets VARIANT=dapo"),
        ({"context_length": 20}, "context_length", "too few"),
        ({"nnodes": 2}, "nnodes", "its own machine"),
        ({"overrides": ["--x"]}, "overrides.0", "key=value"),
    ],
)
def test_what_an_algorithm_cannot_take_is_refused(fields, field, says):
    with pytest.raises(knobs.RefusedRequestError) as caught:
        translated(ROOT, **fields)
    assert any(name == field and says in text for name, text in caught.value.fields), caught.value.fields


def test_a_job_from_request_to_model(platform):
    answer = platform.client.post("/api/jobs", json={"name": "my run/1", "algorithm": "grpo", "tags": ["a"]})
    job = answer.json()
    assert (answer.status_code, job["state"], job["name"]) == (201, "created", "my-run-1")
    assert answer.headers["location"] == f"/api/jobs/{job['uuid']}"
    assert platform.client.post(f"/api/jobs/{job['uuid']}/start").status_code == 202
    job = platform.wait(job["uuid"], "finished")
    assert job["exit_status"] == 0 and job["attempts"] == 1 and job["tags"] == ["a"]
    run = json.loads((platform.options["outputs"] / "my-run-1" / "run.json").read_text())
    assert run["job_uuid"] == job["uuid"]
    wait_for(lambda: platform.job(job["uuid"])["progress"])
    job = platform.job(job["uuid"])
    assert job["progress"]["step"] == 3 and job["progress"]["total_steps"] == 4
    assert job["latest"]["reward_mean"] == pytest.approx(0.3)
    assert platform.job("my-run-1")["uuid"] == job["uuid"]  # by its run's name


def test_what_it_has_produced(platform):
    uuid = platform.submit(name="run")
    platform.wait(uuid, "finished")
    get = platform.client.get
    wait_for(lambda: len(get(f"/api/jobs/{uuid}/metrics").json()) == 3)
    rows = get(f"/api/jobs/{uuid}/metrics").json()
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[1]["policy_loss"] == pytest.approx(0.3) and rows[1]["val_score"] == 0.5
    assert rows[0]["entropy"] is None  # NaN
    assert [row["step"] for row in get(f"/api/jobs/{uuid}/metrics?last=1").json()] == [3]
    assert [row["step"] for row in get(f"/api/jobs/{uuid}/metrics?after_step=1").json()] == [2, 3]
    assert [row["step"] for row in get(f"/api/jobs/{uuid}/metrics?source=validation").json()] == [2]
    raw = get(f"/api/jobs/{uuid}/metrics?raw=true&names=actor/pg_loss").json()
    assert raw[2] == {"step": 3, "actor/pg_loss": pytest.approx(0.2)}
    assert get(f"/api/jobs/{uuid}/metrics.csv").text.startswith("step,actor/entropy,actor/pg_loss")
    log = get(f"/api/jobs/{uuid}/log").json()
    assert log["text"].endswith("üben\n") and log["next_offset"] == log["size"]
    # cut in the middle of ü: the letter comes with the next part, and nothing twice
    place = log["text"].encode().index("ü".encode())
    first = get(f"/api/jobs/{uuid}/log?limit={place + 1}").json()
    rest = get(f"/api/jobs/{uuid}/log?offset={first['next_offset']}").json()
    assert first["text"] + rest["text"] == log["text"]
    assert get(f"/api/jobs/{uuid}/log?offset=-5").json()["text"] == "ben\n"
    assert get(f"/api/jobs/{uuid}/checkpoints").json() == []
    assert get(f"/api/jobs/{uuid}/samples").json() == []
    (wrong,) = get(f"/api/jobs/{uuid}/health").json()
    assert wrong["metric"] == "entropy" and wrong["now"] and "LEARNING_RATE" in wrong["message"]


def test_numbers_that_are_still_being_read_are_not_taken_for_all(platform, monkeypatch):
    """A part of a long file would look like a whole run; metrics files are answered from as they are."""
    uuid = platform.submit(name="run")
    platform.wait(uuid, "finished")
    monkeypatch.setattr("training_platform.api.runs.READ_SECONDS", 0.2)
    monkeypatch.setattr("monitor.metrics_collector.RunMetrics.poll", lambda *_: False)
    assert len(platform.client.get(f"/api/jobs/{uuid}/metrics").json()) == 3
    assert platform.client.get(f"/api/jobs/{uuid}/health").json()["error"]["code"] == "reading"
    (platform.options["outputs"] / "run" / "metrics.jsonl").unlink()  # the console is all that is left
    answer = platform.client.get(f"/api/jobs/{uuid}/metrics")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "reading"
    assert platform.job(uuid)["latest"] == {}


def test_checkpoints_have_the_score_of_their_step(platform):
    uuid = platform.submit(name="run", does="steps=4")
    platform.wait(uuid, "finished")
    for step in (2, 4):
        folder = platform.options["outputs"] / "run" / "checkpoints" / f"global_step_{step}" / "actor"
        folder.mkdir(parents=True)
        (folder / "model_world_size_1_rank_0.pt").write_bytes(b"x" * 10)
    found = platform.client.get(f"/api/jobs/{uuid}/checkpoints").json()
    assert [(one["step"], one["eval_results"], one["best"]) for one in found] == [
        (2, {"gsm8k": 0.5}, False),
        (4, {"gsm8k": 1.0}, True),
    ]
    assert found[0]["bytes"] >= 10 and not found[0]["complete"] and found[0]["problems"]


def test_stop_start_restart_delete(platform):
    outputs = platform.options["outputs"]
    uuid = platform.submit(name="run", does="seconds=30")
    platform.wait(uuid, "running")
    assert platform.client.delete(f"/api/jobs/{uuid}").status_code == 409
    assert platform.client.post(f"/api/jobs/{uuid}/start").json()["state"] == "running"  # nothing happens
    assert platform.client.post(f"/api/jobs/{uuid}/stop").json()["state"] == "stopping"
    job = platform.wait(uuid, "stopped")
    assert job["reason"] == "SIGTERM"
    assert platform.client.post(f"/api/jobs/{uuid}/stop").status_code == 409
    again = platform.client.post(f"/api/jobs/{uuid}/restart", json={"knobs": {"WANDB_PROJECT": "seconds=0"}})
    assert again.json()["uuid"] == uuid
    assert platform.wait(uuid, "finished")["attempts"] == 2
    assert platform.client.post(f"/api/jobs/{uuid}/start").status_code == 409  # it is finished
    fresh = platform.client.post(f"/api/jobs/{uuid}/restart", json={"from": "scratch"}).json()
    assert fresh["parent"] == uuid and fresh["name"] == "run-2"
    platform.wait(fresh["uuid"], "finished")
    assert platform.client.post(f"/api/jobs/{uuid}/restart", json={"from": 7}).status_code == 404
    assert platform.client.delete(f"/api/jobs/{uuid}").status_code == 204
    assert (outputs / "run" / "run.json").exists()  # the run stays, and is one that was started by hand now
    wait_for(lambda: platform.job("run").get("backend") == "none")
    assert platform.client.delete("/api/jobs/run?files=true").status_code == 204
    assert not (outputs / "run").exists()


def test_a_preflight_that_refuses_is_the_jobs_error(platform):
    job = platform.wait(platform.submit(does="end=preflight"), "failed")
    assert job["reason_code"] == "preflight" and job["run_dir"] is None
    assert job["error"]["cause"] == "MODEL_PATH=/nowhere: no such folder; give a folder or an id"
    launch = platform.client.get(f"/api/jobs/{job['uuid']}/log?source=launch").json()
    assert "error: MODEL_PATH=/nowhere" in launch["text"]


def test_the_preflight_can_be_asked_before(platform):
    """The real one, of the real kit."""
    platform.scheduler.kit = ROOT
    found = platform.client.post(
        "/api/jobs/check", json={"algorithm": "sft", "knobs": {"TRAIN_DATA": "/no/such.jsonl"}}, timeout=300
    )
    assert found.status_code == 200, found.text
    assert not found.json()["ok"] and any("/no/such.jsonl" in text for text in found.json()["errors"])
    assert any(row["what"] == "MODEL_PATH" for row in found.json()["rows"])
    assert platform.client.get("/api/jobs").json() == []


def test_the_same_key_makes_one_job(platform):
    made = [
        platform.client.post("/api/jobs", json={"algorithm": "sft"}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert [one.status_code for one in made] == [201, 200] and made[0].json()["uuid"] == made[1].json()["uuid"]


def pages(platform, **query):
    """All pages of the list."""
    found = [platform.client.get("/api/jobs", params=query)]
    while rest := found[-1].headers.get("x-next"):
        assert len(found) < 50
        found.append(platform.client.get("/api/jobs", params={**query, "after": rest}))
    return [[one["name"] for one in page.json()] for page in found]


def test_an_empty_key_is_none(platform):
    answers = [
        platform.client.post("/api/jobs", json={"algorithm": "sft"}, headers={"Idempotency-Key": ""}) for _ in range(2)
    ]
    assert [one.status_code for one in answers] == [201, 201]


def test_the_list_is_whole_over_its_pages(platform):
    """What is looked for is found behind the first page, and runs that were started by hand come behind the jobs."""
    for n in range(7):
        platform.submit(start=False, name=f"n{n}", owner="li" if n % 3 else "wu", description="ÜBUNG" if n == 1 else "")
    platform.submit(start=False, name="other", algorithm="sft")
    for n in range(3):
        folder = platform.options["outputs"] / f"own{n}"
        folder.mkdir()
        run = {"state": "finished", "started": f"2026-11-2{n}T12:00:00+00:00", "algorithm": "grpo", "knobs": {}}
        (folder / "run.json").write_text(json.dumps(run))
    assert len(platform.scheduler.store.listed(100)) == 8
    wait_for(lambda: len(platform.client.get("/api/jobs").json()) == 11)
    whole = ["other", *(f"n{n}" for n in range(6, -1, -1)), "own2", "own1", "own0"]
    for limit in (1, 2, 3, 4, 8, 11, 100):
        found = pages(platform, limit=limit)
        assert sum(found, []) == whole and all(len(page) <= limit for page in found)
    assert pages(platform, limit=2, owner="wu") == [["n6", "n3"], ["n0"]]
    assert pages(platform, limit=1, q="übung") == [["n1"], []] and pages(platform, limit=1, algorithm="sft")[0] == [
        "other"
    ]
    assert sum(pages(platform, limit=1, state="finished"), []) == ["own2", "own1", "own0"]


def test_the_list(platform):
    ids = [platform.submit(start=False, name=f"n{n}", owner="li" if n % 2 else "wu") for n in range(5)]
    listed = platform.client.get("/api/jobs?limit=3")
    assert [one["uuid"] for one in listed.json()] == ids[:1:-1]
    rest = platform.client.get("/api/jobs", params={"limit": 3, "after": listed.headers["x-next"]}).json()
    assert [one["uuid"] for one in rest] == ids[1::-1]
    assert {one["name"] for one in platform.client.get("/api/jobs?owner=li").json()} == {"n1", "n3"}
    assert [one["name"] for one in platform.client.get("/api/jobs?q=N4").json()] == ["n4"]
    changed = platform.client.patch(
        f"/api/jobs/{ids[0]}", json={"name": "n3", "priority": 5, "description": "d"}
    ).json()
    assert (changed["name"], changed["priority"], changed["description"]) == ("n3-2", 5, "d")


@pytest.mark.parametrize(
    ("content", "kind", "status", "says"),
    [
        (b'{"algorithm": "gr', "application/json", 422, "is not JSON"),
        (b'{"algorithm": "grpo"}', "text/plain", 422, "application/json"),
        (b'{"algorithm": "grpo"}', "application/x-www-form-urlencoded", 422, "application/json"),
        (b'{"algorithm": "grpo", "num_gpu": 1}', "application/json", 422, "did you mean num_gpus?"),
        (b'{"algorithm": "grpo", "learning_rate": NaN}', "application/json", 422, "learning_rate"),
        (b'{"algorithm": "grpo", "num_gpus": true}', "application/json", 422, "num_gpus"),
        (b'{"algorithm": "grpo", "name": "a\\u0000b"}', "application/json", 422, "name"),
        (b'{"algorithm": "\\ud800"}', "application/json", 422, "algorithm"),
        (b'{"\\ud800": 1, "algorithm": "grpo"}', "application/json", 422, "unicode"),
        (b"[" * 100_000, "application/json", 400, ""),
        (b'{"algorithm": "grpo", "batch_size": 1' + b"0" * 5000 + b"}", "application/json", 400, ""),
        (b'{"algorithm": "grpo", "num_gpus": 1}', "application/json", 422, "this server has 0"),
        (b"{}", "application/json", 422, "algorithm"),
        (b" " * (11 << 20), "application/json", 413, "10 MiB"),
    ],
)
def test_bad_bodies(platform, content, kind, status, says):
    answer = platform.client.post("/api/jobs", content=content, headers={"Content-Type": kind})
    error = answer.json()["error"]
    assert answer.status_code == status and says in json.dumps(error, ensure_ascii=False), answer.text
    assert error["code"] and error["message"] and isinstance(error["fields"], list)
    assert platform.client.get("/api/jobs").json() == []


@pytest.mark.parametrize("uuid", ["nothing", "%2e%2e%2fetc", "..%2f..%2fetc%2fpasswd", "a%00b", "%ff", ".platform"])
def test_ids_lead_nowhere_else(platform, uuid):
    for path in ("", "/metrics", "/metrics.csv", "/checkpoints", "/log", "/samples", "/health"):
        answer = httpx.get(f"{platform.url}/api/jobs/{uuid}{path}", trust_env=False)
        assert answer.status_code == 404 and answer.json()["error"]["code"] in ("no_job", "not_found"), (
            path,
            answer.text,
        )
    assert platform.client.request("DELETE", f"/api/jobs/{uuid}?files=true").status_code in (404, 405)


def test_a_thousand_jobs_at_once(platform):
    with platform.store.transaction():
        for n in range(1000):
            platform.store.add(str(n), run=f"r{n}", slots={"gpu": 1}, priority=0, request=request_of())
    began = time.process_time()  # others use this machine too
    listed = platform.client.get("/api/jobs?limit=1000")
    assert len(listed.json()) == 1000 and time.process_time() - began < 2


def request_of():
    return {"asked": {}, "folder": "grpo", "environment": {}, "overrides": [], "warnings": [], "max_restarts": 0}


def test_a_second_server_on_the_same_outputs(platform):
    with pytest.raises(StoreInUseError, match="is served by"):
        Store(platform.options["outputs"] / ".platform")


def test_a_full_disk(platform, monkeypatch):
    monkeypatch.setattr(platform.store, "add", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "no space")))
    answer = platform.client.post("/api/jobs", json={"algorithm": "grpo"})
    assert answer.status_code == 507 and answer.json()["error"]["code"] == "disk_full"


def test_a_fault_of_the_server_is_told_in_the_same_form(platform, monkeypatch):
    monkeypatch.setattr(platform.store, "listed", lambda *_: 1 / 0)
    answer = platform.client.get("/api/jobs")
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal"
    assert "Traceback" not in answer.text


def test_documents(platform):
    paths = platform.client.get("/openapi.json").json()["paths"]
    assert {"/api/jobs", "/api/jobs/check", "/api/jobs/{uuid}/start", "/api/jobs/{uuid}/metrics"} <= set(paths)
    page = platform.client.get("/docs").text
    assert all(f"<code>{method.upper()} {path}</code>" in page for path, ways in paths.items() for method in ways)
    assert "<script" not in page and "http://" not in page
    schema = platform.client.get("/api/algorithms/dapo/schema").json()["properties"]
    assert schema["VARIANT"]["default"] == "dapo" and "EXPERIMENT_NAME" not in schema
    assert schema["WARMUP_RATIO"] == {
        "type": "number", "minimum": 0, "maximum": 1, "default": "0.0",
        "description": "share of the steps in which the learning rate climbs",
    }  # fmt: skip


def test_knobs_in_the_servers_environment_reach_no_job(platform, monkeypatch):
    monkeypatch.setattr(
        platform.scheduler.backend, "base", {**os.environ, "MODEL_PATH": "/stray", "PLATFORM_TOKEN": "secret"}
    )
    uuid = platform.submit(name="run")
    platform.wait(uuid, "finished")
    run = json.loads((platform.options["outputs"] / "run" / "run.json").read_text())
    assert run["model"] == "demo"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/api/jobs/run/metrics?lst=1", None, 422, "lst: there is no such parameter; did you mean last?"),
        ("DELETE", "/api/jobs/run?file=true", None, 422, "did you mean files?"),
        ("GET", "/api/jobs/run/events?type=log", None, 422, "did you mean types?"),
        ("GET", "/api/jobs/run/start", None, 405, "GET /api/jobs/run/start: this address takes POST"),
        ("POST", "/api/jobs", {"algorithm": "GRPO"}, 422, "did you mean grpo?"),
        ("POST", "/api/jobs", {"algorithm": "grpo", "knobs": {"rollout_n": 4}}, 422, "did you mean ROLLOUT_N?"),
        ("POST", "/api/jobs/", {"algorithm": "grpo"}, 201, "uuid"),
    ],
)
def test_in_a_hurry(platform, method, path, body, status, says):
    platform.wait(platform.submit(name="run"), "finished")
    answer = platform.client.request(method, path, json=body)
    assert answer.status_code == status and says in answer.text, answer.text
    assert (platform.options["outputs"] / "run" / "run.json").exists() and platform.job("run")["state"] == "finished"


def test_names_with_commas_are_several(platform):
    platform.wait(platform.submit(name="run"), "finished")
    (row,) = platform.client.get("/api/jobs/run/metrics?names=reward_mean,policy_loss&last=1").json()
    assert row.keys() == {"step", "reward_mean", "policy_loss"}
    text = platform.client.get("/api/jobs/run/metrics.csv?names=reward_mean,policy_loss").text
    assert text.startswith("step,reward_mean,policy_loss\n1,0.1,0.4\n")
    for path in ("metrics?names=reward_maen", "metrics.csv?names=step,actor/pg_lss", "metrics?raw=true&names=nothing"):
        answer = platform.client.get(f"/api/jobs/run/{path}")
        assert answer.status_code == 422 and "the run has no such metric" in answer.text, path
    assert "did you mean reward_mean?" in platform.client.get("/api/jobs/run/metrics?names=reward_maen").text
    assert platform.client.get("/api/jobs/run/metrics?names=kl_divergence,val-core/x/acc/mean@1").status_code == 200
