"""The queue: order, slots, ends, restarts, and a server that is killed."""

import json
import signal
import time

import pytest

from common.preflight.environment import GpuUse
from tests.platform.conftest import wait_for
from training_platform.queue import local, store
from training_platform.queue.slots import Holders


def lines(path):
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def noted(tmp_path, word):
    return [line[1] for line in lines(tmp_path / "noted") if line[0] == word]


def test_priority_then_first_come(make_platform, tmp_path):
    """One slot, so the order of the beginnings is the order of the queue."""
    platform = make_platform(cpu_jobs=1)
    note = {"WANDB_ENTITY": str(tmp_path / "noted")}
    first = platform.submit(name="first", does="seconds=30", knobs=note)
    platform.wait(first, "running")
    ids = [
        platform.submit(name=name, priority=rank, knobs=note) for name, rank in zip("abcd", (0, 5, 0, 5), strict=True)
    ]
    queue = platform.client.get("/api/queue").json()
    assert [job["name"] for job in queue["queued"]] == ["b", "d", "a", "c"]
    waiting = platform.job(ids[2])["queue"]
    assert (waiting["position"], waiting["needs"], waiting["free"]) == (4, 1, 0) and "first" in waiting["waits_for"][0]
    platform.client.post(f"/api/jobs/{first}/stop", json={})
    for uuid in ids:
        platform.wait(uuid, "finished")
    assert noted(tmp_path, "begin") == ["first", "b", "d", "a", "c"]


def test_gpus_are_given_to_one_job_each_and_a_large_one_is_not_passed(make_platform, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    platform = make_platform(gpus=("0", "1", "2"), cpu_jobs=1)
    note = {"WANDB_ENTITY": str(tmp_path / "noted")}
    two = platform.submit(name="two", num_gpus=2, does="seconds=30", knobs=note)
    platform.wait(two, "running")
    large = platform.submit(name="large", num_gpus=3, knobs=note)
    small = platform.submit(name="small", num_gpus=1, knobs=note)
    cpu = platform.submit(name="cpu", num_gpus=0, knobs=note)  # another line
    platform.wait(cpu, "finished")
    assert platform.job(small)["state"] == "queued" and platform.job(two)["gpus"] == ["0", "1"]
    platform.client.post(f"/api/jobs/{two}/stop", json={})
    for uuid in (large, small):
        platform.wait(uuid, "finished")
    begun = {line[1]: line[2:] for line in lines(tmp_path / "noted") if line[0] == "begin"}
    assert begun == {
        "two": ["auto", "0,1"],
        "large": ["auto", "0,1,2"],
        "small": ["auto", "0"],
        "cpu": ["cpu", "all"],  # an empty list of GPUs would end Ray, which counts virtual ones on the CPU
    }
    assert noted(tmp_path, "begin").index("large") < noted(tmp_path, "begin").index("small")


def test_a_job_that_is_over_before_anybody_looks_has_a_beginning(make_platform, monkeypatch):
    platform = make_platform(cpu_jobs=1)
    monkeypatch.setattr(platform.scheduler, "_look_after", lambda job: None)  # as if the server was held up
    job = platform.wait(platform.submit(name="quick"), "finished")
    assert job["started_at"] == "2026-11-27T12:00:00+00:00"


def test_backfill_lets_a_small_one_pass(make_platform):
    platform = make_platform(gpus=("0", "1"), backfill=True)
    one = platform.submit(name="one", num_gpus=1, does="seconds=30")
    platform.wait(one, "running")
    large, small = platform.submit(name="large", num_gpus=2), platform.submit(name="small", num_gpus=1)
    platform.wait(small, "finished")
    assert platform.job(large)["state"] == "queued"


def test_what_can_never_fit_is_refused(make_platform):
    platform = make_platform(gpus=("0", "1"))
    for fields in ({"num_gpus": 3}, {"knobs": {"N_GPUS": 3}}, {"num_gpus": 0}):
        answer = platform.client.post("/api/jobs", json={"algorithm": "grpo", **fields})
        assert answer.status_code == 422 and answer.json()["error"]["code"] == "not_enough_gpus"
    own = {"ppo": {"REWARD": "model", "REWARD_MODEL_GPUS": 2}, "grpo": {"TRAINER_MODE": "separate", "ROLLOUT_GPUS": 2}}
    for algorithm, knobs in own.items():
        answer = platform.client.post("/api/jobs", json={"algorithm": algorithm, "num_gpus": 1, "knobs": knobs})
        assert "needs 3 GPUs and this server has 2" in answer.json()["error"]["message"]


def test_a_gpu_that_a_stranger_holds_is_not_given(make_platform):
    platform = make_platform(gpus=("0", "1"))
    stranger = GpuUse("0", 1 << 30, 80 << 30, ("python (pid 42) 40000 MiB",))
    platform.scheduler.holders = Holders(lambda: [stranger])
    assert platform.job(platform.submit(num_gpus=1, does="seconds=1"))["name"]
    wait_for(lambda: platform.client.get("/api/queue").json()["slots"][1]["state"] == "job")
    both = platform.submit(num_gpus=2)
    queue = platform.client.get("/api/queue").json()
    assert queue["slots"][0] == {"slot": "0", "state": "held", "job": None, "holder": "python (pid 42) 40000 MiB"}
    assert any("GPU 0: python (pid 42)" in text for text in platform.job(both)["queue"]["waits_for"])


def test_only_faults_of_the_machine_are_tried_again(make_platform, tmp_path):
    platform = make_platform()
    dies = platform.submit(name="dies", max_restarts=2, does="end=die,seconds=0.1")
    fails = platform.submit(name="fails", max_restarts=2, does="end=fail")
    refused = platform.submit(name="refused", max_restarts=2, does="end=preflight")
    for uuid in (fails, refused):
        job = platform.wait(uuid, "failed")
        assert (job["attempts"], job["restarts"]) == (1, 0)
    assert platform.job(fails)["reason_code"] == "trainer" and platform.job(fails)["reason"] == "CUDA out of memory"
    wait_for(lambda: platform.job(dies)["attempts"] == 3 and platform.job(dies)["state"] == "failed")
    assert (platform.job(dies)["reason_code"], platform.job(dies)["restarts"]) == ("died", 2)


def test_a_launcher_killed_while_its_supervisor_tidies_up(platform):
    """run.json still says running for a moment: the job has not ended before its supervisor has said so."""
    platform.scheduler.gone_seconds = 20
    uuid = platform.submit(name="run", does="seconds=30")
    platform.wait(uuid, "running")
    local.send(local.pid_of(platform.scheduler.folder(platform.store.get(uuid)), 1), signal.SIGKILL)
    time.sleep(0.7)
    assert platform.job(uuid)["state"] == "running"
    path = platform.options["outputs"] / "run" / "run.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, "state": "failed", "reason": "the launcher was killed"}))
    assert platform.wait(uuid, "failed")["reason_code"] == "launcher_killed"


def test_a_machine_that_was_restarted(platform, monkeypatch):
    uuid = platform.submit(name="run", does="seconds=30")
    platform.wait(uuid, "running")
    monkeypatch.setattr("psutil.boot_time", lambda: time.time() + 60)
    local.send(platform.store.get(uuid).pid, signal.SIGKILL)
    assert platform.wait(uuid, "failed")["reason_code"] == "machine_restarted"


def test_what_waited_or_ran_before_the_boot_and_fails_after_it_is_no_fault_of_the_machine(make_platform):
    """It would be tried again; the time of this start counts, not that of the queue or of the start before."""
    platform = make_platform(cpu_jobs=1)
    first = platform.submit(name="first", does="seconds=30")
    platform.wait(first, "running")
    long_ago = "2020-01-01T00:00:00+00:00"
    waited = platform.submit(name="waited", does="end=preflight", max_restarts=1)
    platform.store.change(waited, queued_at=long_ago)
    ran = platform.submit(name="ran", does="end=preflight", max_restarts=1)
    platform.store.change(ran, started_at=long_ago)
    platform.client.post(f"/api/jobs/{first}/stop")
    for uuid in (waited, ran):
        job = platform.wait(uuid, "failed")
        assert (job["reason_code"], job["attempts"]) == ("preflight", 1)


def test_stopped_while_it_waits_and_while_the_preflight_runs(make_platform, kit, tmp_path):
    platform = make_platform(cpu_jobs=1)
    script = tmp_path / "slow" / "grpo" / "train.sh"
    script.parent.mkdir(parents=True)
    text = (kit / "grpo" / "train.sh").read_text()
    script.write_text(text.replace("set +a\nexec", "set +a\nsleep 60\nexec"))
    script.chmod(0o755)
    platform.scheduler.kit = tmp_path / "slow"
    begins = platform.submit(name="begins")
    waits = platform.submit(name="waits")
    platform.wait(begins, "starting")
    assert platform.client.post(f"/api/jobs/{waits}/stop").json()["state"] == "stopped"
    platform.client.post(f"/api/jobs/{begins}/stop")
    assert platform.wait(begins, "stopped", seconds=10)["run_dir"] is None


def test_a_name_that_somebody_took_meanwhile(platform):
    uuid = platform.submit(name="run", start=False)
    (platform.options["outputs"] / "run").mkdir()
    platform.client.post(f"/api/jobs/{uuid}/start")
    assert platform.wait(uuid, "finished")["name"] == "run-2"


def test_jobs_outlive_the_server(make_platform):
    platform = make_platform()
    runs = platform.submit(name="runs", does="seconds=4,steps=20")
    waits = platform.submit(name="waits")
    platform.wait(runs, "running")
    platform.stop()
    platform.start()
    assert platform.job(runs)["state"] == "running" and platform.job(waits)["state"] == "queued"
    platform.wait(runs, "finished")
    wait_for(lambda: len(platform.client.get(f"/api/jobs/{runs}/metrics").json()) == 20)
    assert platform.wait(waits, "finished")["attempts"] == 1


@pytest.mark.parametrize("reached", [False, True])
def test_a_server_that_died_between_the_decision_and_the_start(make_platform, reached):
    """Written down as starting, and nothing runs: queued again where no command was reached, else it has failed."""
    platform = make_platform()
    uuid = platform.submit(name="run", start=False)
    platform.stop()
    store = type(platform.store)(platform.options["outputs"] / ".platform")
    store.change(uuid, state="starting", launches=1, assigned=["cpu0"], place=store.next_place())
    folder = store.folder / uuid
    folder.mkdir()
    if reached:
        local.marker(folder, 1).write_text("999999")
    store.close()
    platform.start()
    job = platform.wait(uuid, "failed" if reached else "finished")
    assert job["attempts"] == 1 and job["reason_code"] == ("preflight" if reached else None)


def test_a_look_at_a_long_queue_reads_its_head_only(make_platform, monkeypatch):
    """Thousands of jobs that wait must not cost a core."""
    platform = make_platform(cpu_jobs=1)
    first = platform.submit(name="first", does="seconds=30")
    platform.wait(first, "running")
    request = platform.store.get(first).request
    with platform.store.transaction():
        for n in range(500):
            platform.store.add(str(n), run=f"r{n}", slots={"cpu": 1}, priority=n % 3, request=request)
            platform.store.change(str(n), state="queued", place=platform.store.next_place())
    read = []
    whole = store._job
    monkeypatch.setattr(store, "_job", lambda row: read.append(row["uuid"]) or whole(row))
    with platform.store.lock:
        platform.scheduler.tick()
        assert len(read) < 10 and "2" in read
    assert platform.store.position(platform.store.get("2")) == 1
    assert platform.store.position(platform.store.get("498")) == 500  # the lowest priority, queued last
    with platform.store.transaction():
        platform.store._db.execute("DELETE FROM jobs WHERE state = 'queued'")
