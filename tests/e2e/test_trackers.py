"""One run, resumed from an older checkpoint, read back from each tracker: every step, the same numbers."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from numbers import Real
from pathlib import Path

import pytest

from common.run_dir import read_metrics
from common.trackers.rows import row_of
from tests.conftest import ROOT, environment_without_knobs

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
    **{"TRACKERS": "wandb,swanlab,mlflow,trackio", "WANDB_MODE": "offline", "SWANLAB_MODE": "offline"},
    **{"DEVICE": "cpu", "EXPERIMENT_NAME": "watched", "PREFLIGHT": "fast"},
}


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An environment with the packages of requirements/trackers.txt on top of this one's."""
    if os.environ.get("TRACKERS_VENV"):
        return Path(os.environ["TRACKERS_VENV"]) / "bin" / "python"
    folder = tmp_path_factory.mktemp("trackers")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    here, there = (
        subprocess.run([program, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
        for program in (sys.executable, python)
    )
    (Path(there) / "kit.pth").write_text(here)
    frozen = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    (folder / "here.txt").write_text("".join(f"{line}\n" for line in frozen.splitlines() if "==" in line))
    subprocess.run([python, "-m", "pip", "install", "-q", "--upgrade", "pip"], check=True)
    wanted = ["-r", str(ROOT / "requirements" / "trackers.txt"), "-c", str(folder / "here.txt")]
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True, timeout=1200)
    return python


@pytest.fixture(scope="module")
def run_dir(python, tmp_path_factory) -> Path:
    outputs = tmp_path_factory.mktemp("watched")
    settings = {**SETTINGS, "OUTPUTS_DIR": str(outputs), "TRACKIO_DIR": str(outputs / "trackio")}
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


def read(python, tracker, run_dir) -> dict[int, dict[str, float]]:
    environment = {**os.environ, "TRACKIO_DIR": str(run_dir.parent / "trackio")}
    command = [python, str(ROOT / "tests" / "e2e" / "tracker_readers.py"), tracker, str(run_dir)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return {int(step): values for step, values in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard", "swanlab", "mlflow", "trackio"])
def test_all_steps_with_the_same_numbers(python, run_dir, tracker):
    found, expected = read(python, tracker, run_dir), read_metrics(run_dir)
    assert [record["step"] for record in expected] == list(range(7))
    compared = 0
    for record in expected:
        row = row_of(record["data"]) if tracker != "tensorboard" else record["data"]
        assert record["step"] == 0 or tracker == "tensorboard" or "train/reward_mean" in row
        for name, value in row.items():
            if isinstance(value, Real) and math.isfinite(value) and not name.startswith(("perf/", "timing")):
                assert found[record["step"]][name] == pytest.approx(value, rel=1e-5, abs=1e-8), (record["step"], name)
                compared += 1
    assert compared > 300


def test_samples_charts_and_comparison_are_there(run_dir):
    state = json.loads((run_dir / "trackers.json").read_text())
    assert set(state) == {"wandb", "swanlab", "mlflow", "trackio"} and all(one["closed"] for one in state.values())
    files = [str(path.relative_to(run_dir.parent)) for path in run_dir.parent.rglob("*") if path.is_file()]
    for part in (
        "/media/table/val/samples", "/media/table/comparison", "/media/images/charts/metrics",  # W&B
        "media/echarts/", "media/image/",  # SwanLab
        "mlflow_files", "samples/6.json", "comparison.json", "charts/metrics.png",  # MLflow
    ):  # fmt: skip
        assert any(part in name for name in files), (part, files)
