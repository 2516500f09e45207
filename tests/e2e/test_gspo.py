"""A real run of GSPO's stages on the CPU: stopped in the preference stage, it resumes there."""

from __future__ import annotations

import json
import signal
import time

import pyarrow.parquet as pq
import pytest

from common.run_dir import metrics_files, read_metrics, read_run
from tests.e2e.test_training import finish, log_end, processes_of, start, wait_until_gone

pytestmark = pytest.mark.e2e

KNOBS = {"SELF_PLAY_ROUNDS": 1, "TOTAL_STEPS": 2, "TEST_FREQ": 2, "BATCH_SIZE": 16, "PAIR_MARGIN": 0.1}


@pytest.mark.nightly
def test_a_round_stopped_in_its_preference_stage_goes_on_there(clean_environment, train, run_dir):
    launcher = start(clean_environment, "gspo", run_dir, **KNOBS)
    preference = run_dir / "round-1" / "preference"
    deadline = time.monotonic() + 300
    while not (preference / "run.json").is_file():
        assert launcher.poll() is None, launcher.stdout.read() + log_end(run_dir / "round-1" / "rl")
        assert time.monotonic() < deadline
        time.sleep(0.2)
    launcher.send_signal(signal.SIGTERM)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode != 0 and f"EXPERIMENT_NAME={run_dir.name} ./gspo/train.sh" in output
    wait_until_gone(preference, 20)
    stopped = read_run(run_dir)
    assert stopped["state"] == "stopped" and [stage["name"] for stage in stopped["stages"]] == ["round-1/rl"]
    assert not (run_dir / "round-1" / "rl" / "checkpoints").exists()

    done = finish(train, "gspo", run_dir, **KNOBS)
    run = read_run(run_dir)
    assert run["state"] == "finished" and run["attempt"] == 2 and len(run["stages"]) == 2
    assert len(metrics_files(run_dir / "round-1" / "rl")) == 1  # it was not started again
    assert "resuming" in done.stderr and "round-1/preference" in done.stderr
    records = read_metrics(run_dir)
    steps = [record["step"] for record in records]
    assert steps == list(range(len(steps))) and len(steps) > 3
    assert any("actor/pg_loss" in record["data"] for record in records[:3])
    assert all("train/loss" in record["data"] for record in records[3:])
    harvested = pq.read_table(run_dir / "round-1" / "data" / "pairs.train.parquet").to_pylist()
    scores = [json.loads(line)["score"] for line in (run_dir / "round-1/rl/rollouts/1.jsonl").read_text().splitlines()]
    assert len(harvested) > 256 and max(scores) > min(scores)
    assert {path.name for path in (run_dir / "rollouts").iterdir()} == {"1.jsonl", "2.jsonl"}
    for name in (
        "command.sh",
        "validation/2.jsonl",
        "model/config.json",
        "charts/metrics.png",
        "train.log",
        "round-1/preference/train.log",
    ):
        assert (run_dir / name).exists(), name
    assert not list(run_dir.glob("round-*/*/model")) and not list(run_dir.glob("round-*/*/checkpoints"))
    assert processes_of(run_dir) == []
