"""DualLogger: nothing lost, nothing twice, nobody waits."""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
import warnings

import pytest

from tests.conftest import ROOT
from tests.platform.conftest import wait_for
from training_platform.core.sender import Sender
from training_platform.core.wandb_callback import DualLogger, init_logging


@pytest.fixture(autouse=True)
def spool(tmp_path, monkeypatch):
    """Spool files of the test, and no W&B login of the person who runs it."""
    folder = tmp_path / "spool"
    monkeypatch.setenv("TRAINING_PLATFORM_SPOOL", str(folder))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    return folder


def platform_logger(platform, job="my-job", **options):
    return DualLogger(job, platform_url=platform.url, wandb_enabled=False, **options)


def metrics_of(platform, job="my-job", **query):
    return platform.client.get(f"/api/jobs/{job}/metrics", params=query).json()


def steps_on_disk(platform, job="my-job"):
    path = platform.options["outputs"] / job / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def test_what_is_logged_is_there(platform, spool):
    """Numbers of every kind of library, GPUs, checkpoints and states of a job that nobody has created."""
    import numpy
    import torch

    logger = platform_logger(platform, "job-1700000000")
    values = {"policy_loss": torch.tensor(0.5), "reward_mean": numpy.float32(0.25), "loss": 2, "mine": True}
    logger.log_metrics(100, values, epoch=1)
    logger.log_metrics(step=101, metrics={"loss": math.nan, "policy_loss": math.inf, "reward_mean": 1.0})
    logger.log_gpu_usage(gpu_index=0, utilization=92.5, memory_used=65.0, memory_total=80.0, temperature=72.0)
    logger.log_checkpoint(100, "checkpoints/step-100", {"gsm8k": 0.4})
    logger.log_checkpoint(step=101, checkpoint_path="checkpoints/step-101", eval_results={"gsm8k": 0.6})
    logger.log_status("running", "half way\nthere")
    logger.finish()
    rows = metrics_of(platform, "job-1700000000")
    assert rows[0] == {"step": 100, "policy_loss": 0.5, "reward_mean": 0.25, "loss": 2.0, "mine": 1.0, "epoch": 1.0}
    assert rows[1] == {"step": 101, "loss": None, "policy_loss": None, "reward_mean": 1.0}
    checkpoints = platform.client.get("/api/jobs/job-1700000000/checkpoints").json()
    told = [(one["step"], one["path"], one["eval_results"], one["best"]) for one in checkpoints]
    assert told == [
        (100, "checkpoints/step-100", {"gsm8k": 0.4}, False),
        (101, "checkpoints/step-101", {"gsm8k": 0.6}, True),
    ]
    gpu = json.loads((platform.options["outputs"] / "job-1700000000" / "gpu.jsonl").read_text())
    assert (gpu["utilization"], gpu["memory_total"]) == (92.5, 80.0)
    wait_for(lambda: platform.job("job-1700000000")["state"] == "finished")
    assert platform.job("job-1700000000")["backend"] == "external"
    assert list(spool.iterdir()) == []


def test_what_is_no_number_is_said_once_and_ends_nothing(platform):
    import torch

    logger = platform_logger(platform)
    with pytest.warns(RuntimeWarning) as said:
        for step in range(3):
            logger.log_metrics(step, {"loss": 1.0, "text": "high", "many": torch.zeros(3), "none": None})
        logger.log_metrics("later", {"loss": 1.0})
        logger.log_metrics(1.5, {"loss": 1.0})
        logger.log_metrics(5, ["loss"])
        logger.log_metrics(-1, {"loss": 1.0})
    logger.finish()
    texts = sorted(str(one.message) for one in said)
    assert len(texts) == 6 and sum("'text' is a str and not a number" in text for text in texts) == 1
    assert metrics_of(platform) == [{"step": step, "loss": 1.0} for step in range(3)]


def test_logging_costs_microseconds_whatever_the_platform_does(platform):
    """One that answers, and one that takes connections and never says a word."""
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for url in (platform.url, f"http://127.0.0.1:{silent.getsockname()[1]}"):
            logger = DualLogger("job", platform_url=url, wandb_enabled=False)
            values = {name: 0.5 for name in ("policy_loss", "reward_mean", "reward_std", "kl_divergence", "entropy")}
            took = []
            for step in range(10_000):
                began = time.perf_counter()
                logger.log_metrics(step=step, metrics=values, epoch=step // 1000)
                took.append(time.perf_counter() - began)
            print(f"{url}: median {1e6 * statistics.median(took):.1f} microseconds")
            assert statistics.median(took) < 50e-6
            began = time.monotonic()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logger._sender.finish(1.0)
            assert time.monotonic() - began < 5


def test_a_platform_that_is_away_comes_and_goes(make_platform):
    """10,000 steps: none missing, none twice, in their order."""
    platform = make_platform()
    logger = platform_logger(platform)
    url = platform.url
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(10_000):
            logger.log_metrics(step, {"loss": 1.0 / (step + 1)})
            if step in (2_000, 6_000):
                time.sleep(0.6)
                platform.stop()
                time.sleep(1.0)
            if step in (4_000, 8_000):
                platform.start()
                logger._sender.url = platform.url
                time.sleep(0.6)
        logger.finish()
    assert sum(f"platform {url}" in str(one.message) and "does not answer" in str(one.message) for one in said) == 1
    assert steps_on_disk(platform) == list(range(10_000))


LOGS = """
import sys
from training_platform.core.wandb_callback import DualLogger
logger = DualLogger("my-job", platform_url=sys.argv[1], wandb_enabled=False)
for step in range(int(sys.argv[2]), int(sys.argv[3])):
    logger.log_metrics(step, {"loss": 1.0})
print("logged", flush=True)
if sys.argv[4] == "wait":
    sys.stdin.read()
"""


def logging_process(url, first, last, end, folder=ROOT):
    command = [sys.executable, "-W", "ignore", "-c", LOGS, url, str(first), str(last), end]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_what_a_killed_process_could_not_send_the_next_one_does(make_platform, spool, tmp_path):
    platform = make_platform()
    platform.stop()
    killed = logging_process(platform.url, 0, 500, "wait", tmp_path)
    assert killed.stdout.readline() == b"logged\n"
    wait_for(lambda: any(path.stat().st_size for path in spool.glob("my-job-*.jsonl")))
    time.sleep(0.7)  # the last batch
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    platform.start()
    after = logging_process(platform.url, 500, 600, "end", tmp_path)
    assert after.wait(60) == 0  # it ends without finish(): what waits is sent at exit
    assert steps_on_disk(platform) == list(range(600))
    assert list(spool.iterdir()) == []


def test_a_batch_that_is_sent_again_is_kept_once(platform):
    """An answer that was lost on its way, and a server that died between writing and committing."""

    def send(seq, *steps, session="s"):
        records = [{"kind": "metrics", "step": step, "metrics": {"loss": 1.0}} for step in steps]
        body = {"job": "my-job", "session": session, "seq": seq, "records": records}
        return platform.client.post("/api/records", json=body)

    assert send(1, 1, 2).json() == {"seq": 1, "new": True}
    assert send(1, 1, 2).json() == {"seq": 1, "new": False}
    path = platform.options["outputs"] / "my-job" / "metrics.jsonl"
    with path.open("a") as file:  # written, never committed
        file.write('{"step": 3, "data": {"loss": 1.0}}\n{"step": 4, "da')
    platform.stop()
    platform.start()
    assert send(2, 3, 4).status_code == 202 and send(1, 5, session="other").json()["new"]
    assert steps_on_disk(platform) == [1, 2, 3, 4, 5]


def test_after_the_database_is_lost_nothing_is_cut(platform):
    logger = platform_logger(platform)
    logger.log_metrics(1, {"loss": 1.0})
    logger.finish()
    platform.stop()
    for path in (platform.options["outputs"] / ".platform").glob("platform.db*"):
        path.unlink()
    platform.start()
    logger = platform_logger(platform)
    logger.log_metrics(2, {"loss": 1.0})
    logger.finish()
    assert steps_on_disk(platform) == [1, 2]


def test_a_run_that_the_platform_reads_itself_is_not_reported_twice(platform):
    uuid = platform.submit(name="run", does="seconds=1")
    platform.wait(uuid, "running")
    logger = platform_logger(platform, uuid)
    with pytest.warns(RuntimeWarning, match="reads this run itself"):
        logger.log_metrics(999, {"loss": 1.0})
        logger.finish()
    platform.wait(uuid, "finished")
    assert 999 not in steps_on_disk(platform, "run")


@pytest.mark.parametrize("job", ["a/../../b", "学习", "x" * 150, "..", "a b"])
def test_any_text_names_a_job(platform, job):
    logger = platform_logger(platform, job)
    logger.log_metrics(1, {"loss": 1.0})
    logger.finish()
    made = [path for path in platform.options["outputs"].iterdir() if path.name != ".platform"]
    assert len(made) == 1 and json.loads((made[0] / "run.json").read_text())["job_uuid"] == job
    assert made[0].parent == platform.options["outputs"]
    assert platform.job(made[0].name)["uuid"] == job


@pytest.mark.parametrize(
    "records",
    [
        [{"kind": "metrics", "step": 1.5, "metrics": {}}],
        [{"kind": "metrics", "step": 1, "metrics": {"loss": "x"}}],
        [{"kind": "metrics", "step": -1, "metrics": {}}],
        [{"kind": "strange"}],
        [{"step": 1, "metrics": {}}],
        [{"kind": "finish"}] * 5_001,
    ],
)
def test_records_that_are_refused(platform, records):
    answer = platform.client.post("/api/records", json={"job": "j", "session": "s", "seq": 1, "records": records})
    assert answer.status_code == 422 and answer.json()["error"]["fields"]
    assert platform.client.get("/api/jobs").json() == []


def test_states_that_a_run_tells(platform):
    logger = platform_logger(platform)
    logger.log_metrics(1, {"loss": 1.0})
    logger.log_status("failed", "CUDA out of memory")
    logger.finish()
    wait_for(lambda: platform.job("my-job")["state"] == "failed")
    assert platform.job("my-job")["reason"] == "CUDA out of memory"
    with pytest.raises(ZeroDivisionError), platform_logger(platform, "other") as logger:
        logger.log_metrics(1, {"loss": 1.0})
        _ = 1 / 0
    wait_for(lambda: platform.job("other")["state"] == "failed")


def test_a_forked_process_logs_for_itself(platform):
    logger = platform_logger(platform)
    logger.log_metrics(1, {"loss": 1.0})
    child = os.fork()
    if not child:
        logger.log_metrics(2, {"loss": 1.0})
        logger._sender.finish()
        os._exit(0)
    os.waitpid(child, 0)
    logger.finish()
    assert sorted(steps_on_disk(platform)) == [1, 2]


class FakeRun:
    """Stands in for a run of W&B: keeps what it was told, and refuses what the real one would drop."""

    def __init__(self):
        self.rows, self.defined, self.alerts, self.summary, self.config, self.ended = [], [], [], {}, Config(), False

    def log(self, row, step=None):
        assert step is None, "W&B drops rows whose step is smaller than one before"
        self.rows.append(row)

    def define_metric(self, name, step_metric=None):
        self.defined.append((name, step_metric))

    def alert(self, title, text, level):
        assert len(title) < 64
        self.alerts.append((title, text, level))

    def finish(self):
        self.ended = True


class Config(dict):
    def update(self, values, allow_val_change=False):
        super().update(values)


def test_the_names_in_wandb(monkeypatch):
    run = FakeRun()
    monkeypatch.setattr("training_platform.core.wandb_callback.open_run", lambda *_: run)
    logger = DualLogger("my-job", platform_enabled=False, wandb_project="p")
    logger.log_metrics(100, {"policy_loss": 0.5, "reward_mean": 1}, epoch=2)
    for index in range(2):
        logger.log_gpu_usage(gpu_index=index, utilization=50.0 + 20 * index, memory_used=1.0)
    logger.log_checkpoint(100, "c", {"gsm8k": 0.4})
    logger.log_status("failed", "no memory")
    logger.log_config({"lr": 1e-6})
    logger.log_summary({"best": 1})
    logger.finish()
    assert run.rows == [
        {"train/policy_loss": 0.5, "train/reward_mean": 1.0, "train/step": 100, "train/epoch": 2.0},
        {"system/gpu.0.utilization": 50.0, "system/gpu.0.memory_used": 1.0, "system/gpu_utilization": 50.0},
        {"system/gpu.1.utilization": 70.0, "system/gpu.1.memory_used": 1.0, "system/gpu_utilization": 60.0},
        {"eval/step": 100, "eval/gsm8k": 0.4},
    ]
    assert run.alerts == [("my-job: failed", "no memory", "ERROR")] and run.config == {"lr": 1e-6} and run.ended
    assert run.summary == {"checkpoint/step": 100, "checkpoint/path": "c", "best": 1}


def test_wandb_never_asks_for_a_key_and_never_ends_a_training(monkeypatch, platform):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.warns(RuntimeWarning, match="nobody is logged in"):
        logger = init_logging("my-job", "p", platform_url=platform.url)
    logger.log_metrics(1, {"loss": 1.0})
    logger.log_summary({"best": 1})
    logger.finish()
    run = FakeRun()
    run.log = lambda row: 1 / 0
    monkeypatch.setattr("training_platform.core.wandb_callback.open_run", lambda *_: run)
    logger = DualLogger("other", platform_url=platform.url)
    with pytest.warns(RuntimeWarning, match="W&B: ZeroDivisionError"):
        for step in range(3):
            logger.log_metrics(step, {"loss": 1.0})
        logger.finish()
    assert steps_on_disk(platform, "other") == [0, 1, 2] and run.ended


OFFLINE = """
from training_platform.core.wandb_callback import DualLogger
logger = DualLogger("my-job", platform_enabled=False, wandb_project="p")
for step in range(300):
    logger.log_metrics(step=step, metrics={"policy_loss": 0.5, "reward_mean": step / 300}, epoch=0)
    if step % 100 == 0:
        for index in range(8):
            logger.log_gpu_usage(gpu_index=index, utilization=92.5, memory_used=65.0, memory_total=80.0)
for step in range(250, 320):  # taken up again from a checkpoint
    logger.log_metrics(step=step, metrics={"policy_loss": 0.25})
logger.finish()
"""


def test_no_step_is_missing_in_the_file_of_wandb(tmp_path):
    """The real package, offline: every step, also those between GPU lines and those after steps went back."""
    environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT), "WANDB_SILENT": "true"}
    subprocess.run([sys.executable, "-c", OFFLINE], cwd=tmp_path, env=environment, check=True, timeout=120)
    steps = [
        row["train/step"]
        for row in wandb_history(next(tmp_path.glob("wandb/offline-*/*.wandb")))
        if "train/step" in row
    ]
    assert steps == [*range(300), *range(250, 320)]


def wandb_history(path):
    """The rows of an offline file: records of LevelDB's log format, each a message of W&B's protocol."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record.FromString(parts)
            parts = b""
            if record.HasField("history"):
                yield {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
                }


def test_the_sender_takes_a_token(make_platform):
    platform = make_platform(needs_token=True, token="secret")
    sender = Sender("my-job", platform.url, token="secret")
    sender.put({"kind": "metrics", "step": 1, "metrics": {"loss": 1.0}})
    sender.finish()
    assert steps_on_disk(platform) == [1]
    wrong = Sender("my-job", platform.url, token="wrong")
    with pytest.warns(RuntimeWarning, match="answers 401.*wait in"):
        wrong.put({"kind": "metrics", "step": 2, "metrics": {"loss": 1.0}})
        wrong.finish(1.0)
        wait_for(lambda: not wrong._thread.is_alive(), 15)
    assert steps_on_disk(platform) == [1]
