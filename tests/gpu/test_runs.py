"""Every trainer through its train.sh, on the demo and on a model of 0.5 billion parameters."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

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


PROBE = "trainer.checkpoint_callback_class=tests.gpu.probe.LookAtServer"
KEPT = ("train.log", "run.json", "metrics.jsonl", "stdout.log", "probe.json")


def train(algorithm: str, name: str, folder: Path, *keys: str, **knobs: object) -> list[dict]:
    """Run a train.sh to its end; return the metrics of each step. GPU_LOGS names a folder where its logs stay."""
    settings = {"DEVICE": DEVICE, "EXPERIMENT_NAME": name, "OUTPUTS_DIR": folder, "USE_WANDB": "false", **knobs}
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    environment["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # for PROBE
    plan = subprocess.Popen(
        [sys.executable, "-m", "common.preflight", algorithm, "--json"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    start = time.monotonic()
    done = subprocess.run(
        [f"./{algorithm}/train.sh", *keys],
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
    if (logs := os.environ.get("GPU_LOGS")) and run.exists():
        (run / "stdout.log").write_text(done.stdout)
        kept = Path(logs) / name
        kept.mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            if (run / file).exists():
                shutil.copy(run / file, kept)
    planned = planned_gib(plan)
    if done.returncode:
        log = (run / "train.log").read_text(errors="replace")[-6000:] if (run / "train.log").exists() else ""
        pytest.fail(f"{algorithm}/train.sh ended with {done.returncode}:\n{log}\n----\n{done.stdout[-3000:]}")
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last: dict = {}
    for step in steps:
        last |= step["data"]
    shown = {short: last[long] for long, short in SHOWN.items() if long in last}
    report("runs", run=name, seconds=took, planned_gib=planned, **shown)
    return [step["data"] for step in steps]


def planned_gib(plan: subprocess.Popen) -> float:
    """What the plan says that torch allocates at its peak in the trainer; 0 without a plan (no GPU)."""
    answer, _ = plan.communicate(timeout=LIMIT_S)
    parts = (json.loads(answer).get("plan") or {}).get("bytes", {}).get("training", {})
    return sum(size for part, size in parts.items() if part not in ("engine asleep", "reserve")) / 2**30


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_supervised_on_the_demo(algorithm, tmp_path):
    steps = train(algorithm, f"{algorithm}-demo", tmp_path, TOTAL_STEPS=12, TEST_FREQ=12, SAVE_FREQ=12)
    losses = [step["train/loss"] for step in steps if "train/loss" in step]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_grpo_on_the_demo(engine, tmp_path):
    name, probe = f"grpo-demo-{engine}", [PROBE] if engine == "vllm" else []
    steps = train(
        "grpo", name, tmp_path, *probe, ROLLOUT_ENGINE=engine, TOTAL_STEPS=6, TEST_FREQ=6, SAVE_FREQ=5,
        KEEP_CHECKPOINTS=2,
    )  # fmt: skip
    agreement = [step["training/rollout_actor_probs_pearson_corr"] for step in steps if
                 "training/rollout_actor_probs_pearson_corr" in step]  # fmt: skip
    assert min(agreement) > 0.99  # bfloat16 on both sides
    scores = [step["critic/score/mean"] for step in steps if "critic/score/mean" in step]
    assert scores[-1] > scores[0]
    if probe:
        check_server(tmp_path / name, step=5)


def check_server(run: Path, step: int) -> None:
    """The server holds the trainer's weights in bfloat16, and sleep frees what waking up took."""
    from tests.e2e.vllm_probe import largest_difference

    server = torch.load(run / f"server_{step}.pt", weights_only=True)
    saved = torch.load(
        run / "checkpoints" / f"global_step_{step}" / "actor" / "model_world_size_1_rank_0.pt",
        map_location="cpu",
        weights_only=False,  # this test's own; FSDP2 saves DTensors
    )
    trainer = {name: getattr(tensor, "_local_tensor", tensor).bfloat16().double() for name, tensor in saved.items()}
    difference = largest_difference(server, trainer)
    free = json.loads((run / "probe.json").read_text())
    freed = (free["asleep_again"] - free["awake"]) / 2**30
    report("server", run=run.name, weights_difference=difference, freed_by_sleep_gib=freed,
           left_after_sleep_gib=(free["asleep"] - free["asleep_again"]) / 2**30)  # fmt: skip
    assert difference == 0
    assert freed > 1 and abs(free["asleep"] - free["asleep_again"]) < 2**29


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
    probe = [PROBE] if engine == "vllm" and not rank else []
    train("grpo", name, tmp_path, *probe, MODEL_PATH=half_billion, ROLLOUT_ENGINE=engine, LORA_RANK=rank,
          TOTAL_STEPS=3, TEST_FREQ=100, SAVE_FREQ=3, **HALF)  # fmt: skip
