"""Jobs on a Ray cluster: a stand-in for its job server, which runs the commands as Ray does; and the real one."""

import os
import shlex
import signal
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT, free_port
from tests.platform.conftest import wait_for
from training_platform.queue import ray_cluster, ray_jobs
from training_platform.queue.ray_cluster import Machine, RayHolders, RaySlots, machines_of


class Cluster:
    """Two machines, and a job server that outlives the platform."""

    def __init__(self, folder, kit):
        self.folder, self.kit = folder, kit
        self.there = [Machine("10.0.0.1", 2), Machine("10.0.0.2", 4)]
        self.sent, self.processes, self.stopped = [], {}, []
        self.answers, self.refuses = True, ""
        self.lock = threading.Lock()

    def _asked(self):
        if not self.answers:
            raise ConnectionError("no route to host")

    def submit_job(self, *, entrypoint, submission_id, **options):
        self._asked()
        with self.lock:
            if self.refuses or submission_id in self.processes:
                raise RuntimeError(
                    "Request failed with status code 500: "
                    + (self.refuses or f"Job with submission_id {submission_id} already exists")
                )
            self.sent.append(SimpleNamespace(entrypoint=entrypoint, submission_id=submission_id, **options))
            log = (self.folder / f"{submission_id}.log").open("wb")
            log.write(f"Running entrypoint for job {submission_id}: {entrypoint}\n".encode())
            log.flush()
            started = subprocess.Popen(
                entrypoint, shell=True, cwd=self.kit, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            self.processes[submission_id] = started
        return submission_id

    def stop_job(self, job_id):
        self._asked()
        self.stopped.append(job_id)
        os.killpg(self.processes[job_id].pid, signal.SIGTERM)
        return True

    def list_jobs(self):
        self._asked()
        with self.lock:
            return [self._details(name, one) for name, one in self.processes.items()]

    def _details(self, name, process):
        code = process.poll()
        if code is None:
            status = "RUNNING"
        else:
            status = "STOPPED" if name in self.stopped else "FAILED" if code else "SUCCEEDED"
        return SimpleNamespace(submission_id=name, status=status, driver_exit_code=code, message="", error_type=None)

    def get_job_logs(self, job_id):
        self._asked()
        return (self.folder / f"{job_id}.log").read_text()

    def machines(self):
        self._asked()
        return self.there


@pytest.fixture
def cluster(tmp_path, kit, monkeypatch):
    folder = tmp_path / "ray"
    folder.mkdir()
    made = Cluster(folder, kit)
    monkeypatch.setattr(ray_cluster, "connect", lambda address: made)
    monkeypatch.setattr(ray_jobs, "POLL", 0.05)
    monkeypatch.setattr(ray_jobs, "LOG_SECONDS", (0.05, 0.05))
    yield made
    for process in made.processes.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def platform(cluster, make_platform):
    return make_platform(gpus=None, ray="http://head:8265")


def words(sent):
    """Variables and command of a submission."""
    parts = shlex.split(sent.entrypoint)
    assert parts[:2] == ["exec", "env"]
    pairs = [part.partition("=") for part in parts[2:] if not part.startswith("./")]
    return {name: value for name, _, value in pairs}, [part for part in parts if part.startswith("./")]


def test_a_job_is_submitted_followed_and_finished(platform, cluster, monkeypatch):
    """On the machine where it fits best, with knobs and without anything of the server's environment."""
    uuid = platform.submit(name="it's one", num_gpus=2, does="seconds=0.5", knobs={"ROLLOUT_N": 4})
    wait_for(lambda: cluster.sent)
    assert platform.job(uuid)["gpus"] == ["10.0.0.1/0", "10.0.0.1/1"]
    job = platform.wait(uuid, "finished")
    assert (job["backend"], job["exit_status"], job["name"]) == ("ray", 0, "it-s-one")
    (sent,) = cluster.sent
    values, command = words(sent)
    assert command == ["./grpo/train.sh"]
    assert values == {
        "EXPERIMENT_NAME": "it-s-one", "OUTPUTS_DIR": str(platform.options["outputs"]), "JOB_UUID": uuid,
        "JOB_LAUNCH": "1", "N_GPUS": "2", "ROLLOUT_N": "4", "WANDB_PROJECT": "seconds=0.5",
    }  # fmt: skip
    assert sent.submission_id == f"{uuid}-1" and sent.entrypoint_num_gpus == 2
    assert sent.entrypoint_resources == {"node:10.0.0.1": 0.001}
    assert sent.runtime_env == {
        "working_dir": str(platform.options["kit"]),
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"},
    }
    assert [row["step"] for row in platform.client.get(f"/api/jobs/{uuid}/metrics").json()] == [1, 2, 3]
    log = platform.client.get(f"/api/jobs/{uuid}/log?source=launch").json()["text"]
    assert log.count("Running entrypoint") == 1 and log.startswith("# start 1, ")


def test_no_secret_is_sent(platform, cluster, monkeypatch):
    secrets = {name: f"secret-{name}" for name in ("WANDB_API_KEY", "HF_TOKEN", "PLATFORM_TOKEN", "RAY_AUTH_TOKEN")}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    uuid = platform.submit(num_gpus=1)
    platform.wait(uuid, "finished")
    assert "secret-" not in repr(cluster.sent)
    assert "secret-" not in platform.client.get(f"/api/jobs/{uuid}/log?source=launch").text


def test_several_machines(platform, cluster):
    """They join the cluster, so Ray reserves nothing for the command; the queue keeps as many GPUs on each."""
    one = platform.submit(name="one", num_gpus=1, does="seconds=30")
    platform.wait(one, "running")
    both = platform.submit(name="both", num_gpus=2, nnodes=2)
    waiting = platform.job(both)["queue"]
    assert (waiting["needs"], waiting["free"]) == (4, 5) and "one" in waiting["waits_for"][0]
    time.sleep(0.5)
    assert platform.job(both)["state"] == "queued"
    platform.client.post(f"/api/jobs/{one}/stop")
    job = platform.wait(both, "finished")
    assert job["nnodes"] == 2 and job["num_gpus"] == 4
    values, _ = words(cluster.sent[1])
    assert values["NNODES"] == "2" and values["N_GPUS"] == "2"
    assert not hasattr(cluster.sent[1], "entrypoint_num_gpus") and not hasattr(cluster.sent[1], "entrypoint_resources")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_gpus": 5}, "5 GPUs on one machine, and the cluster has 0 with as many"),
        ({"num_gpus": 3, "nnodes": 2}, "3 GPUs on each of 2 machines, and the cluster has 1 with as many"),
        ({"nnodes": 2}, "say how many GPUs of each machine"),
        ({"algorithm": "sft", "num_gpus": 1, "nnodes": 2}, "torchrun"),
        ({"num_gpus": 0}, "--cpu_jobs"),
    ],
)
def test_what_can_never_run(platform, fields, says):
    answer = platform.client.post("/api/jobs", json={"algorithm": "grpo", **fields})
    assert answer.status_code == 422 and says in answer.text, answer.text


def test_without_a_number_a_job_takes_the_largest_machine(platform):
    uuid = platform.submit(start=False)
    assert platform.job(uuid)["num_gpus"] == 4


def test_stopped_by_ray(platform, cluster):
    """A run that trains leaves its state; one that waits is never sent."""
    runs = platform.submit(name="runs", num_gpus=4, does="seconds=30")
    waits = platform.submit(name="waits", num_gpus=4)
    platform.wait(runs, "running")
    platform.client.post(f"/api/jobs/{waits}/stop")
    platform.client.post(f"/api/jobs/{runs}/stop", json={"force": True})
    job = platform.wait(runs, "stopped")
    assert cluster.stopped[0] == f"{runs}-1" and job["reason"] == "SIGTERM"
    assert platform.job(waits)["state"] == "stopped" and len(cluster.sent) == 1


def test_jobs_outlive_the_server(platform, cluster):
    runs = platform.submit(name="runs", num_gpus=4, does="seconds=3,steps=20")
    waits = platform.submit(name="waits", num_gpus=4)
    platform.wait(runs, "running")
    platform.stop()
    platform.start()
    assert platform.job(runs)["state"] == "running" and platform.job(waits)["state"] == "queued"
    platform.wait(runs, "finished")
    platform.wait(waits, "finished")
    assert [one.submission_id for one in cluster.sent] == [f"{runs}-1", f"{waits}-1"]


@pytest.mark.parametrize("reached", [False, True])
def test_a_server_that_died_around_the_submission(platform, cluster, reached):
    """Written down as starting: submitted when Ray has nothing of it, else followed. A copy that comes late is one."""
    uuid = platform.submit(name="run", num_gpus=1, start=False)
    platform.stop()
    store = type(platform.store)(platform.options["outputs"] / ".platform")
    request = {**store.get(uuid).request, "backend": "ray"}
    store.change(uuid, state="starting", launches=1, assigned=["10.0.0.1/0"], place=store.next_place(), request=request)
    (store.folder / uuid).mkdir()
    (store.folder / uuid / "launch.log").write_text("# start 1, now\n")
    job = store.get(uuid)
    store.close()
    if reached:
        jobs = ray_jobs.RayJobs(cluster, store.folder)
        added = {"EXPERIMENT_NAME": "run", "OUTPUTS_DIR": str(platform.options["outputs"]), "JOB_UUID": uuid}
        for _ in range(2):
            jobs.start(job, 1, job.assigned, {**added, "JOB_LAUNCH": "1"}, platform.options["kit"])
            jobs.look()
            assert not jobs._refused and not jobs._wanted
    platform.start()
    assert platform.wait(uuid, "finished")["attempts"] == 1
    assert [one.submission_id for one in cluster.sent] == [f"{uuid}-1"]


def test_a_cluster_that_is_away_ends_nothing_and_starts_nothing(platform, cluster, monkeypatch):
    runs = platform.submit(name="runs", num_gpus=2, does="seconds=2")
    platform.wait(runs, "running")
    monkeypatch.setattr(ray_jobs, "STALE", 0.5)
    cluster.answers = False
    wait_for(lambda: "no route to host" in platform.client.get("/api/health").json()["problem"])
    waits = platform.submit(name="waits", num_gpus=1)
    cluster.processes[f"{runs}-1"].wait(10)
    time.sleep(0.5)
    assert (platform.job(runs)["state"], platform.job(waits)["state"]) == ("running", "queued")
    cluster.answers = True
    platform.wait(runs, "finished")
    platform.wait(waits, "finished")
    wait_for(lambda: platform.client.get("/api/health").json()["status"] == "ok")


def test_a_cluster_that_was_started_anew(platform, cluster):
    """It knows no job of before: a fault of the machine, so the run goes on in a new submission."""
    uuid = platform.submit(name="run", num_gpus=1, max_restarts=1, does="seconds=3")
    platform.wait(uuid, "running")
    with cluster.lock:
        lost = cluster.processes.pop(f"{uuid}-1")
        os.killpg(lost.pid, signal.SIGKILL)
        lost.wait()
    job = platform.wait(uuid, "finished")
    assert (job["attempts"], job["restarts"]) == (2, 1)
    events = platform.store.events(0, uuid)
    assert "machine_restarted" in [one["data"].get("reason_code") for one in events]
    assert [one.submission_id for one in cluster.sent] == [f"{uuid}-1", f"{uuid}-2"]


def test_what_ends_badly(platform, cluster):
    refused = platform.wait(platform.submit(num_gpus=1, does="end=preflight"), "failed")
    assert (refused["reason_code"], refused["exit_status"]) == ("preflight", 2)
    assert refused["reason"] == "MODEL_PATH=/nowhere: no such folder; give a folder or an id"
    dies = platform.wait(platform.submit(num_gpus=1, does="end=die,seconds=0.1"), "failed")
    assert dies["reason_code"] == "died"
    cluster.refuses = "runtime_env is too large"
    job = platform.wait(platform.submit(num_gpus=1), "failed")
    assert job["reason_code"] == "not_admitted" and "runtime_env is too large" in job["reason"]


def test_gpus_that_others_use_are_not_given(platform, cluster):
    """Ray says how many of a machine are in use; those of the queue's own jobs are counted once."""
    cluster.there = [Machine("10.0.0.1", 2), Machine("10.0.0.2", 4, used=2.5)]
    wait_for(lambda: sum(one["state"] == "held" for one in platform.client.get("/api/queue").json()["slots"]) == 3)
    one = platform.submit(name="one", num_gpus=1, does="seconds=30")  # the machine with one left fits best
    platform.wait(one, "running")
    assert platform.job(one)["gpus"] == ["10.0.0.2/0"]
    cluster.there = [Machine("10.0.0.1", 2), Machine("10.0.0.2", 4, used=3.5)]
    time.sleep(0.3)
    states = [slot["state"] for slot in platform.client.get("/api/queue").json()["slots"]]
    assert states == ["free", "free", "job", "held", "held", "held"]


def test_a_server_without_the_cluster_leaves_its_jobs_alone(platform, cluster):
    uuid = platform.submit(name="run", num_gpus=1, does="seconds=2")
    platform.wait(uuid, "running")
    platform.stop()
    platform.options |= {"ray": "", "gpus": ()}
    platform.start()
    wait_for(lambda: "start this server with --ray_address" in platform.client.get("/api/health").json()["problem"])
    assert platform.job(uuid)["state"] == "running"
    platform.stop()
    platform.options |= {"ray": "http://head:8265", "gpus": None}
    platform.start()
    assert platform.wait(uuid, "finished")["attempts"] == 1


def test_slots_of_machines():
    """A job of one machine takes one where it fits, the fullest; one of several as many on each."""
    machines = [Machine("a", 2), Machine("b", 4), Machine("c", 4)]
    slots = RaySlots(lambda: machines, 0)
    free = [name for name in slots.gpus if name != "b/3"]
    assert slots.choose(free, 3, 1) == ["b/0", "b/1", "b/2"] and slots.choose(free, 4, 1) == [
        "c/0",
        "c/1",
        "c/2",
        "c/3",
    ]
    assert slots.choose(free, 6, 2) == ["b/0", "b/1", "b/2", "c/0", "c/1", "c/2"]
    assert slots.choose(free, 8, 2) is None and slots.choose([], 1, 1) is None
    assert slots.needed(2, "cpu", nnodes=2) == {
        "gpu": 4
    }  # on the CPU verl's processes take what Ray counts as GPUs too
    assert slots.needed(None, None) == {"gpu": 4} and slots.needed(0, None) == {"cpu": 1}
    held = RayHolders(lambda: [Machine("a", 2, 2.0), Machine("b", 4, 1.0)]).of(["a/1", "b/0", "b/1"])
    assert list(held) == ["a/1"]


def test_what_ray_answers():
    """As Ray 2.60 wrote it, shortened; its first answers hold nothing."""
    node = {"node_id": "c272", "node_ip": "192.0.2.2", "state": "ALIVE", "resources_total": {"GPU": 3.0, "CPU": 8.0}}
    dead = {"node_id": "d1", "node_ip": "192.0.2.3", "state": "DEAD", "resources_total": {}}
    nodes = {"result": True, "data": {"result": {"total": 2, "result": [node, dead]}}}
    usage = {"c272": {"node:192.0.2.2": [0.0, 1.0], "CPU": [0.0, 8.0], "GPU": [2.0, 3.0]}}
    status = {"result": True, "data": {"clusterStatus": {"loadMetricsReport": {"usage": {}, "usageByNode": usage}}}}
    assert machines_of(nodes, status) == [Machine("192.0.2.2", 3, 2.0)]
    assert machines_of(nodes, {"data": {"clusterStatus": None}}) == [Machine("192.0.2.2", 3, 0.0)]


def test_no_cluster_there(tmp_path):
    """Said at once, with the option's name; the database is given back."""
    command = [ROOT / ".venv/bin/python", "-m", "training_platform", "serve", "--outputs", tmp_path, "--port"]
    address = f"http://127.0.0.1:{free_port()}"
    done = subprocess.run(
        [*command, str(free_port()), "--ray_address", address], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and f"error: --ray_address {address}: no job server of Ray answers" in done.stderr
