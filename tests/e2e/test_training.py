"""Real runs of verl's trainers on the CPU, a few steps each."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from common.checkpoints.integrity import latest_checkpoint
from common.checkpoints.layout import checkpoints_of
from common.evaluation.cli import main as evaluate
from common.metrics.names import friendly
from common.run_dir import read_metrics, read_run
from common.verl_ext.version import pinned
from tests.conftest import ROOT
from tests.e2e import ports

pytestmark = pytest.mark.e2e

REWARD_THAT_BREAKS = """
import pathlib
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    if pathlib.Path(__file__).with_name("break").exists():
        raise ZeroDivisionError("the judge is away")
    return 1.0
"""


def finish(train, algorithm, run_dir, *arguments, **knobs):
    """Run to the end; returns the finished process after checking that it went well."""
    done = train(algorithm, *arguments, EXPERIMENT_NAME=run_dir.name, timeout=600, **knobs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + log_end(run_dir)
    return done


def log_end(run_dir) -> str:
    log = run_dir / "train.log"
    return log.read_text(errors="replace")[-6000:] if log.exists() else ""


def curve(run_dir, name):
    return {r["step"]: friendly(r["data"])[name] for r in read_metrics(run_dir) if name in friendly(r["data"])}


def load(folder):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def start(clean_environment, algorithm, run_dir, **knobs) -> subprocess.Popen:
    return subprocess.Popen(
        [str(ROOT / algorithm / "train.sh")],
        env={**clean_environment, "EXPERIMENT_NAME": run_dir.name, **{k: str(v) for k, v in knobs.items()}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(launcher, run_dir, step, timeout=240):
    deadline = time.monotonic() + timeout
    while not any(record["step"] >= step for record in read_metrics(run_dir) if run_dir.exists()):
        assert launcher.poll() is None, launcher.stdout.read() + log_end(run_dir)
        assert time.monotonic() < deadline, log_end(run_dir)
        time.sleep(0.3)


def processes_of(run_dir) -> list[str]:
    """Command lines of what is left of a run, by its folder in their environment or arguments."""
    done = subprocess.run(["ps", "axeww", "-o", "pid,command"], capture_output=True, text=True)
    mine = str(os.getpid())
    return [line for line in done.stdout.splitlines() if f"RUN_DIR={run_dir}" in line and mine not in line.split()[:1]]


def wait_until_gone(run_dir, seconds) -> float:
    started = time.monotonic()
    while processes_of(run_dir):
        assert time.monotonic() - started < seconds, processes_of(run_dir)
        time.sleep(0.5)
    return time.monotonic() - started


# ---- GRPO --------------------------------------------------------------------------------------------------------


def test_grpo_demo_writes_everything_and_the_rollout_agrees_with_training(clean_environment, run_dir, tmp_path):
    knobs = {"TOTAL_STEPS": 3, "SAVE_FREQ": 2, "TEST_FREQ": 2, "TEMPERATURE": 0.7, "PREFLIGHT": "fast"}
    launcher = start(clean_environment, "grpo", run_dir, **knobs)
    wait_for_step(launcher, run_dir, 0)
    sockets = ports.listening(run_dir)
    queues = [one for one in sockets if re.search(r"TransferQueue|SimpleStorage", one[2]) and one[0] == "127.0.0.1"]
    assert len(queues) >= 3, sockets  # two of the controller, one of the storage
    assert [one for one in sockets if one[0] not in ports.LOOPBACK] == []
    assert ports.let_in_by_grpc(sockets) == []
    assert not ports.send_pickles(sockets, tmp_path / "ran")
    assert "joined" not in {ports.joins_ray(sockets, tmp_path, token) for token in (None, "wrong")}
    output, _ = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, output[-3000:] + log_end(run_dir)
    assert "Step 3/3 | reward" in output and "Finished" in output
    run = read_run(run_dir)
    assert (run["state"], run["exit_status"], run["algorithm"]) == ("finished", 0, "grpo")
    assert run["knobs"]["LEARNING_RATE"] not in ("", "auto") and run["versions"]["verl"] == pinned()
    for name in (
        "command.sh",
        "train.log",
        "metrics.jsonl",
        ".hydra/config.yaml",
        "charts/metrics.png",
        "rollouts/3.jsonl",
        "validation/2.jsonl",
        "checkpoints/latest_checkpointed_iteration.txt",
    ):
        assert (run_dir / name).exists(), name
    assert [record["step"] for record in read_metrics(run_dir)] == [0, 1, 2, 3]
    assert min(curve(run_dir, "rollout_corr").values()) >= 0.999
    longest, cut = curve(run_dir, "response_length_max"), curve(run_dir, "response_clip_ratio")
    assert all((share > 0) == (longest[step] == 24) for step, share in cut.items())
    assert latest_checkpoint(run_dir)[0] == 3
    samples = [json.loads(line) for line in (run_dir / "rollouts" / "3.jsonl").read_text().splitlines()]
    assert len(samples) == 32 * 8 and {"input", "output", "score"} <= set(samples[0])
    assert sum(p.numel() for p in load(run_dir / "model").parameters()) > 500_000
    merged = [sys.executable, "-m", "common.checkpoints", "merge", str(run_dir), "--dtype", "float32"]
    subprocess.run([*merged, "--to", str(run_dir / "float32")], cwd=ROOT, check=True, timeout=120)
    assert load(run_dir / "float32").config.to_dict()["dtype"] == "float32"
    ours, verls = answers_of(run_dir, run_dir), verls_answers(run_dir, 3)
    assert len(verls) > 100 and len(ours & verls) > 0.95 * len(verls)  # model/ is bfloat16, which may tip a tie
    data = ["--input_file", run["knobs"]["VAL_DATA"], "--reward", run["knobs"]["REWARD_FUNC_PATH"] + ":compute_score"]
    assert answers_of(run_dir / "float32", run_dir, *data) == verls


def answers_of(model, run_dir, *options):
    """Question, greedy answer and score of each row by test.sh; without options it finds out all from the run."""
    output = run_dir / f"{model.name}.jsonl"
    assert evaluate(["--model_path", str(model), "--batch", "--greedy", *options, "--output_file", str(output)]) == 0
    rows = map(json.loads, output.read_text().splitlines())
    return {(row["prompt"], row["response"], row["score"]) for row in rows}


def verls_answers(run_dir, step):
    """The same of verl's own validation at a step."""
    rows = map(json.loads, (run_dir / "validation" / f"{step}.jsonl").read_text().splitlines())
    return {
        (row["input"].removeprefix("user\n").removesuffix("\nassistant\n"), row["output"], row["score"]) for row in rows
    }


@pytest.mark.nightly
def test_grpo_on_two_processes_with_lora_dynamic_sampling_and_an_algorithm_of_ones_own(train, run_dir):
    """LoRA's merged weights reach both rollout servers, and the fast sampler filters groups as verl's own does.

    The estimator and the loss are those of grpo/my_algorithm.py, which both ranks must know.
    """
    finish(
        train,
        "grpo",
        run_dir,
        "algorithm.filter_groups.enable=true",
        "trainer.checkpoint_callback_class=tests.e2e.lora_probe.WriteServerWeights",
        ALGORITHM_PATH="grpo/my_algorithm.py",
        SAVE_FREQ=1,
        TOTAL_STEPS=3,
        N_GPUS=2,
        LORA_RANK=8,
        LEARNING_RATE="1e-2",
        TEST_FREQ=3,
        BATCH_SIZE=16,
    )
    assert min(curve(run_dir, "rollout_corr").values()) >= 0.999
    evicted = [record["data"].get("training/filter_groups/evicted_samples") for record in read_metrics(run_dir)]
    assert any(evicted)
    # The servers' weights after step 2 are base plus folded adapter of step 2's checkpoint.
    import torch

    from tests.e2e.lora_probe import folded, largest_difference  # imports verl, which takes a while

    expected = folded(run_dir / "checkpoints" / "global_step_2", alpha=16, rank=8)
    for rank in range(2):
        served = torch.load(run_dir / f"server_2_{rank}.pt", weights_only=True)
        assert largest_difference(served, expected) < 1e-5
    # The exported model is the base with the adapter folded in, and the adapter has moved it.
    base, exported = load(ROOT / "common" / "demo_model" / "model"), load(run_dir / "model")
    names = [name for name, _ in base.named_parameters() if "q_proj.weight" in name]
    assert all(not torch.equal(base.state_dict()[name], exported.state_dict()[name]) for name in names)
    assert not any("lora" in name for name in exported.state_dict())


@pytest.mark.nightly
def test_grpo_killed_and_resumed(clean_environment, train, run_dir):
    """Nothing of the run is left within 20 s; started again it resumes, and the curve has no gap and no double step."""
    knobs = {"TOTAL_STEPS": 7, "SAVE_FREQ": 2, "TEST_FREQ": 7, "BATCH_SIZE": 16}
    stop_at_step(clean_environment, "grpo", run_dir, 5, "SIGKILL", knobs)
    assert latest_checkpoint(run_dir)[0] >= 4
    finish(train, "grpo", run_dir, **knobs)
    records = read_metrics(run_dir)
    assert [record["step"] for record in records] == list(range(8))
    assert (run_dir / "metrics.2.jsonl").exists() and read_run(run_dir)["attempt"] == 2
    assert all("reward_mean" in friendly(record["data"]) for record in records[1:])


@pytest.mark.nightly
@pytest.mark.parametrize("mode", ["colocate", "separate"])
def test_grpo_asynchronous_killed_and_resumed(clean_environment, train, run_dir, mode):
    """Answers under way are in the checkpoint: the run continues without a gap and learns; some answers are old."""
    knobs = {"TRAINER_MODE": mode, "TOTAL_STEPS": 10, "SAVE_FREQ": 3, "TEST_FREQ": 10}
    knobs |= {"BATCH_SIZE": 32, "MINI_BATCH_SIZE": 16} if mode == "separate" else {}
    stop_at_step(clean_environment, "grpo", run_dir, 5, "SIGKILL", knobs)
    assert latest_checkpoint(run_dir)[0] == 3
    assert (run_dir / "checkpoints" / "global_step_3" / "transfer_queue" / "metadata.json").is_file()
    finish(train, "grpo", run_dir, **knobs)
    rewards, ages = curve(run_dir, "reward_mean"), curve(run_dir, "staleness")
    assert list(rewards) == list(range(1, 11)) and read_run(run_dir)["attempt"] == 2
    assert rewards[10] - rewards[1] >= 0.2, rewards
    assert 0 < max(ages.values()) <= 8, ages
    assert sum(p.numel() for p in load(run_dir / "model").parameters()) > 500_000


def stop_at_step(environment, algorithm, run_dir, step, how, knobs):
    """Send a signal to the launcher and see that all its processes go."""
    launcher = start(environment, algorithm, run_dir, **knobs)
    wait_for_step(launcher, run_dir, step)
    launcher.send_signal(getattr(signal, how))
    print(f"gone after {wait_until_gone(run_dir, 20):.1f} s")
    launcher.wait(20)
    assert read_run(run_dir)["state"] == ("failed" if how == "SIGKILL" else "stopped")


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_sft_ended_by_a_signal(clean_environment, run_dir, how):
    stop_at_step(clean_environment, "sft", run_dir, 5, how, {"SAVE_FREQ": 2})
    assert latest_checkpoint(run_dir)[0] >= 4


@pytest.mark.nightly
def test_grpo_reward_that_raises_in_training_names_the_cause(clean_environment, run_dir, tmp_path):
    reward = tmp_path / "my_reward.py"
    reward.write_text(REWARD_THAT_BREAKS)
    launcher = start(clean_environment, "grpo", run_dir, REWARD_FUNC_PATH=reward, TOTAL_STEPS=50, BATCH_SIZE=16)
    wait_for_step(launcher, run_dir, 1)
    (tmp_path / "break").touch()
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode != 0
    assert "the judge is away" in output and "my_reward.py" in output and "REWARD_FUNC_PATH" in output
    assert read_run(run_dir)["state"] == "failed" and "the judge is away" in read_run(run_dir)["reason"]
    assert (run_dir / "charts" / "metrics.png").exists()
    wait_until_gone(run_dir, 20)


# ---- SFT ---------------------------------------------------------------------------------------------------------


SMALL_SFT = {
    **{"BATCH_SIZE": 16, "TOTAL_STEPS": 8, "TEST_FREQ": 4, "LR_SCHEDULER": "constant"},
    "VAL_DATA": ROOT / "sft" / "data" / "val.parquet",  # all 64 rows are for training
}


@pytest.fixture(scope="module")
def small_sft_data(tmp_path_factory):
    """64 rows, so that an epoch of batch 16 has 4 steps."""
    import pyarrow.parquet as pq

    path = tmp_path_factory.mktemp("sft") / "train.parquet"
    pq.write_table(pq.read_table(ROOT / "sft" / "data" / "train.parquet").slice(0, 64), path)
    return path


@pytest.fixture(scope="module")
def whole_sft_curve(small_sft_data):
    """Losses of an uninterrupted run of 8 steps, which the other runs are compared with."""
    folder = ROOT / "outputs" / f"test-sft-whole-{os.getpid()}"
    knobs = {**SMALL_SFT, "TRAIN_DATA": small_sft_data, "EXPERIMENT_NAME": folder.name}
    environment = {**os.environ, **{name: str(value) for name, value in knobs.items()}}
    try:
        subprocess.run([str(ROOT / "sft" / "train.sh")], env=environment, check=True, capture_output=True, timeout=600)
        return curve(folder, "loss")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_sft_resumed_equals_uninterrupted(train, run_dir, small_sft_data, whole_sft_curve):
    """Cut in the middle of an epoch, then at its end (where verl loses an epoch): the same losses to 1e-4."""
    for stop in (3, 4, 8):
        finish(train, "sft", run_dir, **{**SMALL_SFT, "TRAIN_DATA": small_sft_data, "TOTAL_STEPS": stop})
    assert read_run(run_dir)["attempt"] == 3 and processes_of(run_dir) == []
    kept = [checkpoint.step for checkpoint in checkpoints_of(run_dir)]
    assert len(kept) == 2 and kept[-1] == 8  # those of earlier attempts count too
    resumed = curve(run_dir, "loss")
    assert list(resumed) == list(range(1, 9))
    for step, loss in whole_sft_curve.items():
        assert resumed[step] == pytest.approx(loss, abs=1e-4), step


@pytest.mark.nightly
@pytest.mark.nightly
def test_texts_are_packed_learnt_and_resumed(train, run_dir, tmp_path):
    """Continued pretraining with Muon, cut after 3 of 6 steps: every token counts, and the curve goes on."""
    texts = [{"text": f"{a} + {b} = {a + b}."} for a in range(40) for b in range(30)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    knobs = {"DATA_FORM": "text", "TRAIN_DATA": tmp_path / "t.jsonl", "MAX_LENGTH": 64, "BATCH_SIZE": 8}
    knobs |= {"OPTIMIZER": "muon", "LR_SCHEDULER": "constant", "TEST_FREQ": 3, "SAVE_FREQ": 3}
    for stop in (3, 6):
        finish(train, "sft", run_dir, **knobs, TOTAL_STEPS=stop)
    losses = curve(run_dir, "loss")
    assert list(losses) == list(range(1, 7)) and losses[6] < losses[1] - 0.2
    tokens = [record["data"]["train/global_tokens"] for record in read_metrics(run_dir) if record["step"] == 1]
    assert tokens[0] == 8 * 64


def test_sft_with_plateau_halves_its_rate_and_resumes_with_the_same(train, run_dir, small_sft_data):
    """Where nothing is learned validation never gains, so the rate is halved at the third look and again."""
    knobs = {
        **SMALL_SFT,
        "TRAIN_DATA": small_sft_data,
        "LR_SCHEDULER": "plateau",
        "LEARNING_RATE": 1e-9,
        "TEST_FREQ": 1,
    }
    finish(train, "sft", run_dir, **knobs)
    whole = curve(run_dir, "learning_rate")
    assert [whole[step] / 1e-9 for step in range(1, 9)] == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25], rel=1e-3)
    shutil.rmtree(run_dir)
    for stop in (3, 6, 8):
        finish(train, "sft", run_dir, **{**knobs, "TOTAL_STEPS": stop})
    assert curve(run_dir, "learning_rate") == pytest.approx(whole)


@pytest.mark.nightly
def test_a_reward_model_with_plateau_halves_its_rate_and_resumes_with_the_same(train, run_dir):
    knobs = {"BATCH_SIZE": 16, "TOTAL_STEPS": 6, "TEST_FREQ": 1, "LR_SCHEDULER": "plateau", "LEARNING_RATE": 1e-9}
    finish(train, "ppo/reward_model", run_dir, **knobs)
    whole = curve(run_dir, "learning_rate")
    shares = [round(whole[step] / 1e-9, 4) for step in range(1, 7)]
    assert shares[0] == 1 and shares[-1] == 0.5 and shares == sorted(shares, reverse=True), shares
    shutil.rmtree(run_dir)
    for stop in (4, 6):
        finish(train, "ppo/reward_model", run_dir, **{**knobs, "TOTAL_STEPS": stop})
    assert curve(run_dir, "learning_rate") == pytest.approx(whole)


@pytest.mark.nightly
def test_sft_on_two_processes_and_with_another_seed(train, run_dir, small_sft_data, whole_sft_curve):
    knobs = {**SMALL_SFT, "TRAIN_DATA": small_sft_data, "TOTAL_STEPS": 4, "N_GPUS": 2}
    finish(train, "sft", run_dir, **knobs)
    two_loss = curve(run_dir, "loss")
    # The two processes draw the same 64 rows in batches of different order, so single steps differ a little.
    assert sum(two_loss.values()) == pytest.approx(sum(whole_sft_curve[step] for step in range(1, 5)), rel=0.1)
    shutil.rmtree(run_dir)
    finish(train, "sft", run_dir, SEED=2, **{**knobs, "TOTAL_STEPS": 1})
    assert curve(run_dir, "loss")[1] != pytest.approx(two_loss[1], abs=1e-6)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which only root may")
def test_sft_with_a_full_disk_says_so_and_keeps_the_last_checkpoint(train, run_dir, small_sft_data):
    """The run's checkpoints are on a file system of 15 MB, which holds one checkpoint of the demo but not two."""
    checkpoints = run_dir / "checkpoints"
    checkpoints.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=15m", "tmpfs", str(checkpoints)], check=True)
    (run_dir / "run.json").write_text(json.dumps({"algorithm": "sft", "state": "stopped", "knobs": {}}))
    try:
        done = train(
            "sft",
            EXPERIMENT_NAME=run_dir.name,
            TRAIN_DATA=small_sft_data,
            VAL_DATA=SMALL_SFT["VAL_DATA"],
            BATCH_SIZE=16,
            TOTAL_STEPS=4,
            SAVE_FREQ=2,
            TEST_FREQ=4,
        )
        assert done.returncode != 0
        assert "full" in done.stdout and "KEEP_CHECKPOINTS" in done.stdout
        assert latest_checkpoint(run_dir)[0] == 2
    finally:
        subprocess.run(["umount", str(checkpoints)], check=True)
