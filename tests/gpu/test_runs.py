"""Every trainer through its train.sh, on the demo and on a model of 0.5 billion parameters."""

import importlib.util
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.gpu.conftest import DEVICE, REHEARSAL, report

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ["hf", *(name for name in ("vllm", "sglang") if importlib.util.find_spec(name) and not REHEARSAL)]
LIMIT_S = 400
SHOWN = {
    "perf/max_memory_allocated_gb": "peak_gib",
    "perf/mfu/actor": "mfu",
    "train/mfu": "mfu",
    "perf/throughput": "tokens_per_s",
    "timing_s/gen": "gen_s",
    "timing_s/update_actor": "update_s",
    "timing_s/update_weights": "weights_s",
    "timing_s/step": "step_s",
    "training/rollout_actor_probs_pearson_corr": "agreement",
    "critic/score/mean": "reward",
    "train/loss": "loss",
}
HALF = {"BATCH_SIZE": 16, "MAX_RESPONSE_LENGTH": 32} if REHEARSAL else {"BATCH_SIZE": 64, "MAX_RESPONSE_LENGTH": 512}


def train(algorithm: str, name: str, folder: Path, **knobs: object) -> list[dict]:
    """Run a train.sh to its end; return the metrics of each step."""
    settings = {"DEVICE": DEVICE, "EXPERIMENT_NAME": name, "OUTPUTS_DIR": folder, "USE_WANDB": "false", **knobs}
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    start = time.monotonic()
    done = subprocess.run(
        [f"./{algorithm}/train.sh"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
    )
    took = time.monotonic() - start
    run = folder / name
    if done.returncode:
        log = (run / "train.log").read_text(errors="replace")[-6000:] if (run / "train.log").exists() else ""
        pytest.fail(f"{algorithm}/train.sh ended with {done.returncode}:\n{log}\n----\n{done.stdout[-3000:]}")
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last: dict = {}
    for step in steps:
        last |= step["data"]
    shown = {short: last[long] for long, short in SHOWN.items() if long in last}
    report("runs", run=name, seconds=took, **shown)
    return [step["data"] for step in steps]


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_supervised_on_the_demo(algorithm, tmp_path):
    steps = train(algorithm, f"{algorithm}-demo", tmp_path, TOTAL_STEPS=12, TEST_FREQ=12, SAVE_FREQ=12)
    losses = [step["train/loss"] for step in steps if "train/loss" in step]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_grpo_on_the_demo(engine, tmp_path):
    steps = train(
        "grpo", f"grpo-demo-{engine}", tmp_path, ROLLOUT_ENGINE=engine, TOTAL_STEPS=6, TEST_FREQ=6, SAVE_FREQ=6
    )
    agreement = [step["training/rollout_actor_probs_pearson_corr"] for step in steps if
                 "training/rollout_actor_probs_pearson_corr" in step]  # fmt: skip
    assert min(agreement) > 0.99  # bfloat16 on both sides
    scores = [step["critic/score/mean"] for step in steps if "critic/score/mean" in step]
    assert scores[-1] > scores[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_ppo_on_the_demo(engine, tmp_path):
    steps = train("ppo", f"ppo-demo-{engine}", tmp_path, ROLLOUT_ENGINE=engine, TOTAL_STEPS=3, TEST_FREQ=3, SAVE_FREQ=3)
    assert any("critic/vf_loss" in step for step in steps)


def test_sft_of_half_a_billion(half_billion, tmp_path):
    train("sft", "sft-0.5b", tmp_path, MODEL_PATH=half_billion, TOTAL_STEPS=4, BATCH_SIZE=HALF["BATCH_SIZE"],
          TEST_FREQ=4, SAVE_FREQ=4)  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES[-1:])
@pytest.mark.parametrize("rank", [0, 16], ids=["full", "lora"])
def test_grpo_of_half_a_billion(half_billion, rank, engine, tmp_path):
    name = f"grpo-0.5b-{engine}" + ("-lora" if rank else "")
    train("grpo", name, tmp_path, MODEL_PATH=half_billion, ROLLOUT_ENGINE=engine, LORA_RANK=rank, TOTAL_STEPS=3,
          TEST_FREQ=100, SAVE_FREQ=3, **HALF)  # fmt: skip
