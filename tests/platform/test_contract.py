"""The promised API as its users call it: `requests` against the server, and the logger's four ways of use.

The calls, names, types and what is done with the answers are those that the product's guide has shown to users; they
must continue to work as they are.
"""

import inspect
import os
import subprocess
import sys

import pytest
import requests

from tests.conftest import ROOT
from tests.platform.conftest import wait_for
from tests.platform.test_logger import wandb_history
from training_platform.core.wandb_callback import DualLogger, init_logging

pytestmark = pytest.mark.usefixtures("spool")
AS_SHOWN = {
    "name": "qwen7b-grpo-math",
    "description": "Qwen2.5-7B GRPO training on GSM8K",
    "model_path": "Qwen/Qwen2.5-7B-Instruct",
    "model_size": "7B",
    "algorithm": "grpo",
    "train_data_path": "/data/gsm8k/train.parquet",
    "eval_data_path": "/data/gsm8k/test.parquet",
    "num_gpus": 8,
    "learning_rate": 1e-6,
    "batch_size": 1024,
    "num_epochs": 15,
    "context_length": 1536,
    "rollout_n": 5,
    "kl_coef": 0.001,
}


def test_a_job_is_created_and_started(make_platform):
    """Section 4.5: the answer has a uuid, and POST .../start without a body starts it."""
    platform = make_platform(gpus=tuple("01234567"))
    response = requests.post(f"{platform.url}/api/jobs", json=AS_SHOWN)
    job = response.json()
    assert isinstance(job["uuid"], str) and job["state"] == "created"
    assert requests.post(f"{platform.url}/api/jobs/{job['uuid']}/start").ok
    platform.wait(job["uuid"], "finished")
    shown = platform.job(job["uuid"])
    assert shown["description"] == AS_SHOWN["description"] and shown["model_size"] == "7B"
    assert any("/data/gsm8k/train.parquet" in text for text in shown["warnings"])  # it was not there, and was said


@pytest.mark.parametrize("algorithm", ["sft", "grpo", "ppo", "dpo", "gspo", "dapo"])
def test_every_promised_algorithm_is_taken(platform, algorithm):
    response = requests.post(f"{platform.url}/api/jobs", json={"algorithm": algorithm, "learning_rate": 1e-6})
    assert response.status_code == 201


def test_metrics_and_checkpoints_of_a_job(platform, capsys):
    """Sections 5.5 and 5.6: arrays, oldest first; what the loops over them print."""
    job_uuid = platform.submit(name="run", does="steps=12")
    platform.wait(job_uuid, "finished")
    folder = platform.options["outputs"] / "run" / "checkpoints"
    for step in (2, 3):
        (folder / f"global_step_{step}" / "actor").mkdir(parents=True)
    response = requests.get(f"{platform.url}/api/jobs/{job_uuid}/metrics")
    metrics = response.json()
    for m in metrics[-10:]:
        print(f"Step {m['step']}: loss={m['policy_loss']:.4f}, reward={m['reward_mean']:.3f}")
    response = requests.get(f"{platform.url}/api/jobs/{job_uuid}/checkpoints")
    for ckpt in response.json():
        print(f"Step {ckpt['step']}: {ckpt['path']}")
        if ckpt.get("eval_results"):
            print(f"  Eval: {ckpt['eval_results']}")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "Step 3: loss=0.2000, reward=0.300" and printed[9].startswith("Step 12: ")
    shown = [f"Step 2: {folder}/global_step_2", "  Eval: {'gsm8k': 0.5}", f"Step 3: {folder}/global_step_3"]
    assert printed[10:] == shown


def test_the_signatures():
    """Section 5.2.3: names, order and defaults."""
    parameters = inspect.signature(DualLogger).parameters
    assert {name: one.default for name, one in parameters.items()} == {
        "job_uuid": inspect.Parameter.empty,
        "platform_url": "http://localhost:8000",
        "platform_enabled": True,
        "wandb_project": None,
        "wandb_run_name": None,
        "wandb_entity": None,
        "wandb_config": None,
        "wandb_tags": None,
        "wandb_enabled": True,
    }
    for method in (
        "log_metrics",
        "log_gpu_usage",
        "log_checkpoint",
        "log_status",
        "log_config",
        "log_summary",
        "finish",
    ):
        assert callable(getattr(DualLogger, method))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_one_line(platform, spool, monkeypatch):
    """Section 5.2.1."""
    monkeypatch.setenv("PLATFORM_URL", platform.url)
    logger = init_logging(
        job_uuid="my-job-001",
        wandb_project="llm-training",
    )
    logger.log_metrics(step=100, metrics={"loss": 0.5, "reward": 0.8})
    logger.finish()
    rows = requests.get(f"{platform.url}/api/jobs/my-job-001/metrics").json()
    assert rows == [{"step": 100, "loss": 0.5, "reward": 0.8}]


FIRST = """
import os
from training_platform.core.wandb_callback import DualLogger

job = os.environ.get("JOB_UUID", "local-grpo-test")
logger = DualLogger(
    job_uuid=job,
    platform_url=os.environ.get("PLATFORM_URL", "http://localhost:8000"),
    platform_enabled=True,
    wandb_project=os.environ.get("WANDB_PROJECT", "grpo-math"),
    wandb_run_name=f"qwen7b-grpo-{job[:8]}",
    wandb_entity=None,
    wandb_config={"model": "Qwen/Qwen2.5-7B-Instruct", "algorithm": "GRPO", "learning_rate": 1e-6, "rollout_n": 5},
    wandb_tags=["grpo", "math", "qwen2.5"],
    wandb_enabled=True,
)
for step in range(STEPS):
    metrics = {
        "policy_loss": 0.5 - step * 0.00003,
        "reward_mean": 0.3 + step * 0.00005,
        "reward_std": 0.2,
        "kl_divergence": 0.01 + step * 0.000001,
        "entropy": 1.5 - step * 0.0001,
    }
    logger.log_metrics(step=step, metrics=metrics, epoch=step // 1000)
    if step % 100 == 0:
        logger.log_gpu_usage(gpu_index=0, utilization=92.5, memory_used=65.0, memory_total=80.0, temperature=72.0)
    if step > 0 and step % 500 == 0:
        score = 0.35 + step * 0.00003
        logger.log_checkpoint(step=step, checkpoint_path=f"checkpoints/step-{step}", eval_results={"gsm8k": score})
logger.log_summary({"best_gsm8k": 0.65, "best_step": 8500, "final_loss": 0.15, "total_tokens": 125_000_000})
logger.finish()
print("Training completed!")
"""


@pytest.mark.parametrize("steps", [1_200, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_first_way_to_both_places(platform, tmp_path, steps):
    """A whole training from another folder, W&B offline: both places have every step and every checkpoint."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PLATFORM_URL": platform.url, "WANDB_MODE": "offline"}
    environment |= {"TRAINING_PLATFORM_SPOOL": str(tmp_path / "spool"), "WANDB_SILENT": "true"}
    environment.pop("JOB_UUID", None)
    command = [sys.executable, "-c", FIRST.replace("STEPS", str(steps))]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.endswith("Training completed!\n"), done.stderr
    rows = requests.get(f"{platform.url}/api/jobs/local-grpo-test/metrics").json()
    assert [row["step"] for row in rows] == list(range(steps))
    assert rows[-1]["policy_loss"] == pytest.approx(0.5 - (steps - 1) * 0.00003)
    checkpoints = requests.get(f"{platform.url}/api/jobs/local-grpo-test/checkpoints").json()
    assert [one["path"] for one in checkpoints] == [f"checkpoints/step-{n}" for n in range(500, steps, 500)]
    wait_for(lambda: platform.job("local-grpo-test")["state"] == "finished")
    history = list(wandb_history(next(tmp_path.glob("wandb/offline-*/*.wandb"))))
    assert [row["train/step"] for row in history if "train/step" in row] == list(range(steps))
    assert sum("system/gpu_utilization" in row for row in history) == -(-steps // 100)
    assert [row["eval/step"] for row in history if "eval/step" in row] == list(range(500, steps, 500))


def test_third_way_only_the_platform(platform, spool):
    logger = DualLogger(
        job_uuid="my-job",
        platform_url=platform.url,
        wandb_enabled=False,
    )
    step, metrics = 7, {"loss": 0.5}
    logger.log_metrics(step, metrics)
    logger.finish()
    assert requests.get(f"{platform.url}/api/jobs/my-job/metrics").json() == [{"step": 7, "loss": 0.5}]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_fourth_way_only_wandb(platform, spool):
    """Nobody is logged in here, so nothing is sent anywhere, and nothing fails."""
    logger = DualLogger(
        job_uuid="my-job",
        platform_enabled=False,
        wandb_project="my-project",
    )
    step, metrics = 7, {"loss": 0.5}
    logger.log_metrics(step, metrics)
    logger.finish()
    assert requests.get(f"{platform.url}/api/jobs").json() == []
