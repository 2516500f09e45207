"""Runs on several machines: two launchers on this host, which is all that they know of each other."""

import os
import shutil
import signal
import time

import psutil
import pytest

from common.checkpoints.layout import checkpoints_of
from common.run_dir import read_metrics, read_run
from tests.e2e.launchers import Launchers

pytestmark = pytest.mark.e2e
STEPS = {"BATCH_SIZE": 8, "TOTAL_STEPS": 3, "SAVE_FREQ": 2, "TEST_FREQ": 3}


@pytest.fixture
def start(clean_environment, tmp_path):
    """Start launchers; ended with the test."""
    made = []

    def begin(algorithm, name, **knobs):
        made.append(Launchers(clean_environment, tmp_path, algorithm, name, **knobs))
        return made[-1]

    yield begin
    for launchers in made:
        launchers.end()


def digits(run_dir, *names):
    return [[record["data"].get(name) for name in names] for record in read_metrics(run_dir)]


def test_sft_on_two_machines_is_that_of_one_machine_with_two_processes(start):
    two = start("sft", "two", **STEPS)
    assert two.wait() == [0, 0], two.said()
    one = start("sft", "one", count=1, **(STEPS | {"N_GPUS": 2}))
    assert one.wait() == [0], one.said()
    figures = ("train/loss", "train/grad_norm", "val/loss")
    assert digits(two.run_dir, *figures) == digits(one.run_dir, *figures)
    run = read_run(two.run_dir)
    assert (run["state"], run["exit_status"], len(run["machines"])) == ("finished", 0, 2)
    assert [checkpoint.world_size for checkpoint in checkpoints_of(two.run_dir)] == [2, 2]
    assert (two.run_dir / "model" / "config.json").is_file() and (two.run_dir / "train.node1.log").is_file()
    assert "ended with status 0" in two.text(1) and two.left() == []


@pytest.mark.nightly
def test_sft_on_two_machines_resumes(start):
    two = start("sft", "two", **STEPS)
    assert two.wait() == [0, 0], two.said()
    shutil.rmtree(two.run_dir / "checkpoints" / "global_step_3")
    again = start("sft", "two", **(STEPS | {"TOTAL_STEPS": 4}))
    assert again.wait() == [0, 0], again.said()
    assert "from the checkpoint of step 2" in again.text(0)
    assert [record["step"] for record in read_metrics(two.run_dir) if "train/loss" in record["data"]] == [1, 2, 3, 4]


def test_a_launcher_that_is_killed_ends_all_and_is_named_with_the_checkpoint(start):
    launchers = start("sft", "cut", **(STEPS | {"TOTAL_STEPS": 4000, "TOTAL_EPOCHS": 100, "SAVE_FREQ": 1}))
    launchers.wait_for_checkpoint()
    killed = time.monotonic()
    os.kill(launchers.processes[1].pid, signal.SIGKILL)
    assert launchers.processes[0].wait(90) not in (0, None), launchers.said()
    assert time.monotonic() - killed < 90
    said = launchers.text(0)
    assert "machine 2 of 2, " in said and "is gone" in said, launchers.said()
    assert "To resume from the checkpoint of step" in said
    run = read_run(launchers.run_dir)
    assert run["state"] == "failed" and "machine 2 of 2" in run["reason"] and run["exit_status"] != 0
    until = time.monotonic() + 20
    while launchers.left() and time.monotonic() < until:
        time.sleep(0.5)
    assert launchers.left() == []


@pytest.mark.nightly
def test_ctrl_c_on_any_machine_ends_all_within_15_seconds(start):
    launchers = start("sft", "stop", **(STEPS | {"TOTAL_STEPS": 4000, "TOTAL_EPOCHS": 100}))
    launchers.wait_for_line("Step 1/")
    asked = time.monotonic()
    os.kill(launchers.processes[1].pid, signal.SIGINT)
    statuses = launchers.wait(60)
    cores = max(1, psutil.cpu_count() or 1)
    assert statuses == [130, 130], launchers.said()
    assert time.monotonic() - asked < 15 * max(1.0, os.getloadavg()[0] / cores)  # 15 s on a machine that is free
    assert read_run(launchers.run_dir)["state"] == "stopped"
    assert "SIGINT" in launchers.text(1)


def test_grpo_on_two_machines_trains_saves_and_shares_no_secret(start):
    launchers = start("grpo", "grpo", TOTAL_STEPS=2, SAVE_FREQ=2, TEST_FREQ=2, BATCH_SIZE=8)
    launchers.wait_for_line("Step 1/")
    [folder] = launchers.run_dir.glob(".cluster-*")
    token = (folder / "ray_token").read_text()
    assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "ray_token").stat().st_mode & 0o777 == 0o600
    assert launchers.wait() == [0, 0], launchers.said()
    log = (launchers.run_dir / "train.log").read_text(errors="replace")
    assert "Ray: 2 of 2 machines" in log
    assert {path.name for path in (launchers.run_dir / "machines").iterdir()} == {"0.jsonl", "1.jsonl"}
    assert token not in log and token not in (launchers.run_dir / "command.sh").read_text()
    assert not folder.exists()  # it ends with the attempt
    [checkpoint] = checkpoints_of(launchers.run_dir)
    assert checkpoint.world_size == 2 and (launchers.run_dir / "model" / "config.json").is_file()
    assert [record["step"] for record in read_metrics(launchers.run_dir)] == [0, 1, 2]
    assert launchers.left() == []
