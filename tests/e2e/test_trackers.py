"""One run, resumed from an older checkpoint, read back from each tracker: every step, the same numbers."""

from __future__ import annotations

import json
import math
import os
import subprocess
from numbers import Real
from pathlib import Path

import pytest

from common.run_dir import read_metrics
from common.trackers.rows import comparison, row_of
from tests.conftest import ROOT, environment_without_knobs
from tests.optional_packages import environment_with

pytestmark = [pytest.mark.nightly, pytest.mark.e2e]
SETTINGS = {
    **{
        "TOTAL_STEPS": "6",
        "SAVE_FREQ": "2",
        "TEST_FREQ": "3",
        "BATCH_SIZE": "8",
        "ROLLOUT_N": "2",
        "KEEP_CHECKPOINTS": "9",
    },
    "TRACKERS": "wandb,swanlab,mlflow,trackio,clearml",
    **{"WANDB_MODE": "offline", "SWANLAB_MODE": "offline", "CLEARML_OFFLINE_MODE": "1"},
    **{"DEVICE": "cpu", "EXPERIMENT_NAME": "watched", "PREFLIGHT": "fast"},
}


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An environment with the packages of requirements/trackers.txt on top of this one's."""
    if os.environ.get("TRACKERS_VENV"):
        return Path(os.environ["TRACKERS_VENV"]) / "bin" / "python"
    return environment_with("trackers.txt", tmp_path_factory.mktemp("trackers"))


@pytest.fixture(scope="module")
def run_dir(python, tmp_path_factory) -> Path:
    outputs = tmp_path_factory.mktemp("watched")
    settings = {**SETTINGS, "OUTPUTS_DIR": str(outputs), **places(outputs)}
    environment = {**environment_without_knobs(), **settings, "VENV_DIR": str(python.parent.parent)}
    run = outputs / "watched"
    for resume in ("auto", str(run / "checkpoints" / "global_step_2")):
        done = subprocess.run(
            [str(ROOT / "grpo" / "train.sh")],
            env={**environment, "RESUME": resume},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        assert "Tracker " not in done.stdout, done.stdout[-4000:]
    return run


def places(outputs: Path) -> dict[str, str]:
    """Where those that are not kept in the run's folder are."""
    return {"TRACKIO_DIR": str(outputs / "trackio"), "CLEARML_CACHE_DIR": str(outputs / "clearml")}


def read(python, tracker, run_dir) -> dict:
    """``numbers``, by step and name, and ``facts`` of a tracker."""
    environment = {**os.environ, **places(run_dir.parent)}
    command = [python, str(ROOT / "tests" / "e2e" / "tracker_readers.py"), tracker, str(run_dir)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard", "swanlab", "mlflow", "trackio", "clearml"])
def test_all_steps_with_the_same_numbers(python, run_dir, tracker):
    found, expected = read(python, tracker, run_dir)["numbers"], read_metrics(run_dir)
    assert [record["step"] for record in expected] == list(range(7))
    compared = 0
    for record in expected:
        row = row_of(record["data"]) if tracker != "tensorboard" else record["data"]
        assert record["step"] == 0 or tracker == "tensorboard" or "train/reward_mean" in row
        for name, value in row.items():
            if isinstance(value, Real) and math.isfinite(value) and not name.startswith(("perf/", "timing")):
                assert found[str(record["step"])][name] == pytest.approx(value, rel=1e-5, abs=1e-8), (
                    record["step"],
                    name,
                )
                compared += 1
    assert compared > 300


@pytest.mark.parametrize("tracker", ["wandb", "swanlab"])
def test_config_tags_samples_charts_and_comparison_read_back(python, run_dir, tracker):
    facts, run = read(python, tracker, run_dir)["facts"], json.loads((run_dir / "run.json").read_text())
    assert facts["config"]["knobs"] == run["knobs"] and run["knobs"]["TOTAL_STEPS"] == "6"
    assert facts["config"]["trainer"]["total_training_steps"] == 6  # verl's, though a session came after it
    assert facts["tags"][:2] == ["grpo", "demo"]
    records = read_metrics(run_dir)
    assert facts["comparison"] == [list(row.values()) for row in comparison(records)] and facts["comparison"]
    assert set(facts["charts"]) == {"PNG"}
    assert set(facts["samples"]) >= {"3", "6"}
    for step in ("3", "6"):
        lines = (run_dir / "validation" / f"{step}.jsonl").read_text().splitlines()[:20]
        wanted = [
            [int(step), row["input"][:2000], row["output"][:2000], row["score"]] for row in map(json.loads, lines)
        ]
        assert facts["samples"][step] == wanted
    assert tracker != "wandb" or facts["last_step"] == 6


@pytest.mark.parametrize("tracker", ["mlflow", "clearml"])
def test_the_last_session_keeps_verls_configuration(python, run_dir, tracker):
    facts = read(python, tracker, run_dir)["facts"]
    assert int(facts["config"]["trainer"]["total_training_steps"]) == 6
    if tracker == "clearml":  # it hung where it sends from a forked process
        for one in (["training_debug_image", "charts", 6], ["plot", "comparison", 6], ["plot", "val", 6]):
            assert one in facts["sent"], one


def test_samples_charts_and_comparison_are_there(run_dir):
    state = json.loads((run_dir / "trackers.json").read_text())
    assert set(state) == set(SETTINGS["TRACKERS"].split(",")) and all(one["closed"] for one in state.values())
    files = [str(path.relative_to(run_dir.parent)) for path in run_dir.parent.rglob("*") if path.is_file()]
    for part in (
        "/media/table/val/samples", "/media/table/comparison", "/media/images/charts/metrics",  # W&B
        "media/echarts/", "media/image/",  # SwanLab
        "mlflow_files", "samples/6.json", "comparison.json", "charts/metrics.png",  # MLflow
    ):  # fmt: skip
        assert any(part in name for name in files), (part, files)
