"""Real PPO runs on the CPU: critic, resume, the best checkpoint, reward model, API, early stop."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from common.checkpoints.integrity import latest_checkpoint
from common.checkpoints.layout import checkpoints_of
from common.metrics.names import friendly
from common.run_dir import read_metrics, read_run
from tests.api_server import FAILURES
from tests.conftest import ROOT
from tests.e2e.test_training import curve, finish, start, wait_for_step, wait_until_gone

pytestmark = pytest.mark.e2e

SMALL = {"BATCH_SIZE": 16, "MINI_BATCH_SIZE": 8}


@pytest.fixture
def run_dir(request):
    path = ROOT / "outputs" / f"test-{request.node.name}-{os.getpid()}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


def advantages_by_hand(batch, gamma, lam):
    """GAE as in arXiv 1506.02438, row by row in float64, then whitened over the tokens of the batch."""
    rows, lengths = [], batch["response_mask"].sum(1).astype(int)
    for row, length in enumerate(lengths):
        reward, value = (batch[name][row, :length].astype(np.float64) for name in ("token_level_rewards", "values"))
        following = np.append(value[1:], 0.0)
        delta = reward + gamma * following - value
        rows.append([sum((gamma * lam) ** k * delta[t + k] for k in range(length - t)) for t in range(length)])
    flat = np.concatenate(rows)
    whitened = (flat - flat.mean()) / np.sqrt(flat.var(ddof=1) + 1e-8)
    return whitened, flat


@pytest.mark.nightly
def test_killed_and_resumed_with_its_critic(clean_environment, train, run_dir):
    """Actor and critic resume together; the best checkpoint stays next to the newest; the advantages are GAE's."""
    knobs = {**SMALL, "TOTAL_STEPS": 5, "SAVE_FREQ": 1, "TEST_FREQ": 2, "KEEP_CHECKPOINTS": 1, "KL_TARGET": 0.01}
    dump = "trainer.checkpoint_callback_class=tests.e2e.batch_dump.DumpBatch"
    launcher = start(clean_environment, "ppo", run_dir, **knobs)
    wait_for_step(launcher, run_dir, 3)
    launcher.kill()
    wait_until_gone(run_dir, 20)
    launcher.wait(20)
    step, folder = latest_checkpoint(run_dir)
    assert {"actor", "critic"} <= {path.name for path in folder.iterdir()}
    saved_coefficient = json.loads((folder / "kl_coef.json").read_text())
    finish(train, "ppo", run_dir, dump, **knobs)
    records = read_metrics(run_dir)
    assert [record["step"] for record in records] == list(range(6))
    assert records[step + 1]["data"]["actor/reward_kl_penalty_coeff"] == pytest.approx(saved_coefficient)
    values = curve(run_dir, "value_loss")
    assert values[5] < values[1]  # a critic that started again would be back where it was
    assert "critic/vf_explained_var" in records[5]["data"] and "reward/acc/mean" in records[5]["data"]
    scores = curve(run_dir, "val_score")
    best = max(step for step in (2, 4, 5) if scores[step] == max(scores[s] for s in (2, 4, 5)))
    assert {one.step for one in checkpoints_of(run_dir)} == {5, best}
    assert (run_dir / "charts" / "ppo.png").stat().st_size > 10_000
    batch = load_file(run_dir / "batches" / "5.safetensors")
    whitened, plain = advantages_by_hand(batch, gamma=1.0, lam=0.95)
    tokens = batch["response_mask"].astype(bool)
    assert np.abs(batch["advantages"][tokens] - whitened).max() < 1e-5
    assert np.abs((batch["returns"] - batch["values"])[tokens] - plain).max() < 1e-5


def test_reward_model_and_early_stop(train, run_dir):
    """A policy that does not learn stops at the second validation, saved and exported, and resumes when asked to."""
    knobs = {**SMALL, "REWARD": "model", "TOTAL_STEPS": 8, "TEST_FREQ": 1, "SAVE_FREQ": 8}
    done = finish(train, "ppo", run_dir, EARLY_STOP_PATIENCE=2, LEARNING_RATE="1e-12", **knobs)
    run = read_run(run_dir)
    assert run["state"] == "stopped" and run["exit_status"] == 0
    assert "has not improved for 2 validations" in run["reason"] and run["reason"] in " ".join(done.stdout.split())
    assert latest_checkpoint(run_dir)[0] == 2 and (run_dir / "model" / "model.safetensors").exists()
    assert 0.1 < curve(run_dir, "reward_mean")[1] < 0.9  # the share of answers in the form that the model likes
    samples = [json.loads(line) for line in (run_dir / "rollouts" / "1.jsonl").read_text().splitlines()]
    assert all((sample["score"] > 0.5) == ("####" in sample["output"]) for sample in samples)


@contextlib.contextmanager
def failing_judge(port=0):
    """The stand-in judge, which fails in each way 3 times in 100 calls, in a separate process."""
    script = (
        "import asyncio, sys; from aiohttp import web; from tests.api_server import FAILURES, Judge\n"
        "async def go():\n"
        "    judge = Judge({kind: 0.03 for kind in FAILURES})\n"
        "    runner = web.AppRunner(judge.app()); await runner.setup()\n"
        f"    site = web.TCPSite(runner, '127.0.0.1', {port}); await site.start()\n"
        "    print(runner.addresses[0][1], flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(go())"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1/chat/completions"
    finally:
        process.kill()


@pytest.mark.nightly
def test_api_reward_that_fails_now_and_then(train, run_dir, tmp_path):
    assert len(FAILURES) * 0.03 > 0.2
    with failing_judge() as url:
        config = {
            "kind": "judge",
            "url": url,
            "model": "judge",
            "prompt": "{prompt}\n{answer}",
            "criteria": {"form": {"pattern": r"Score:\s*(\d+)", "range": [0, 10]}},
            "timeout_s": 2,
            "backoff_s": 0.05,
            "attempts": 10,
        }
        (tmp_path / "judge.yaml").write_text(yaml.safe_dump(config))
        finish(train, "ppo", run_dir, **SMALL, REWARD="api", API_REWARD_CONFIG=tmp_path / "judge.yaml", TOTAL_STEPS=2)
    last = friendly(read_metrics(run_dir)[-1]["data"])
    assert last["api_failed"] == 0 and last["api_latency"] > 0
    assert sum(curve(run_dir, "api_retries").values()) > 0
    samples = [json.loads(line) for line in (run_dir / "rollouts" / "2.jsonl").read_text().splitlines()]
    assert len(samples) == 16 and all((sample["score"] == 1) == ("####" in sample["output"]) for sample in samples)
