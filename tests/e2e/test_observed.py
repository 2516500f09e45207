"""A real run with ``PROMETHEUS=true`` beside a monitor, scraped by Debian's Prometheus until it is killed."""

from __future__ import annotations

import glob
import math
import os
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import psutil
import pytest

from common.metrics.names import friendly
from common.run_dir import read_metrics
from monitor.prometheus import PREFIX, TABLE
from tests.conftest import ROOT, environment_without_knobs, free_port
from tests.prometheus_server import firing, get, programs_in, serve, wait

pytestmark = [pytest.mark.nightly, pytest.mark.e2e]
NAME = "observed"
KNOBS = {
    **{"PROMETHEUS": "true", "DEVICE": "cpu", "ROLLOUT_ENGINE": "hf", "PREFLIGHT": "fast", "TRACKERS": "none"},
    **{"BATCH_SIZE": "8", "ROLLOUT_N": "2", "TOTAL_STEPS": "500", "TEST_FREQ": "2", "SAVE_FREQ": "2"},
    "EXPERIMENT_NAME": NAME,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run, a monitor, a Prometheus; Ray's folder is one of the test's own."""
    folder = tmp_path_factory.mktemp("observed")
    programs, port, monitor_port = programs_in(folder), free_port(), free_port()
    outputs = folder / "outputs"
    outputs.mkdir()
    ray_folder = Path("/tmp") / f"observed-{os.getpid()}"  # sockets have short names
    ray_folder.mkdir(mode=0o700)
    environment = {**environment_without_knobs(), **KNOBS, "OUTPUTS_DIR": str(outputs), "RAY_TMPDIR": str(ray_folder)}
    command = [sys.executable, "monitor/app.py", "--port", str(monitor_port), "--log_dir", str(outputs)]
    default = read_default()
    monitor = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    server = serve(programs, folder, port, monitor_port)
    run = subprocess.Popen([str(ROOT / "grpo" / "train.sh")], env=environment, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}", f"http://localhost:{monitor_port}", outputs / NAME, ray_folder, default
    finally:
        for process in (server, monitor, run):
            process.terminate()
        for process in (server, monitor, run):
            process.wait(60)
        kill(ray_folder)
        subprocess.run(["rm", "-rf", str(ray_folder)], check=True)


def read_default() -> bytes | None:
    """Content of the file that verl overwrites by default, None where there is none."""
    path = Path("/tmp/ray/session_latest/metrics/prometheus/prometheus.yml")
    return path.read_bytes() if path.is_file() else None


def kill(ray_folder: Path) -> None:
    """End what the run has started, Ray's processes too, all at once and without a word to them."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == str(ray_folder):
                process.kill()
        except psutil.Error:
            pass


def values(server: str, query: str) -> list[tuple[dict[str, str], float]]:
    found = get(f"{server}/api/v1/query?query={urllib.parse.quote(query)}")["data"]["result"]
    return [(one["metric"], float(one["value"][1])) for one in found]


def test_every_number_of_the_run_is_in_prometheus(world):
    server, _, run_dir, *_ = world
    wait(lambda: [one for _, one in values(server, f'verlkit_run_step{{run="{NAME}"}}') if one >= 3], 600, "steps")
    records = {record["step"]: friendly(record["data"]) for record in read_metrics(run_dir)}
    compared = 0
    for name in {name for step in (1, 2) for name in records[step]} & set(TABLE):
        kept = history(server, name)
        expected = [step[name] for step in records.values() if math.isfinite(step.get(name, math.nan))]
        assert kept and all(any(math.isclose(one, value) for value in expected) for one in kept), (name, kept)
        compared += 1
    assert compared > 20
    fixed = ("run_info", "run_state", "run_steps", "run_step_duration_seconds", "run_eta_seconds", "checkpoint_step")
    for name in (*fixed, "validation_score", "checkpoint_bytes", "run_last_step_timestamp_seconds"):
        assert values(server, f'{PREFIX}{name}{{run="{NAME}"}}'), name


def history(server: str, name: str) -> list[float]:
    """All values that were scraped of a metric of the run, NaN left out."""
    query = urllib.parse.quote(f'{TABLE[name].name}{{run="{NAME}"}}[10m]')
    found = get(f"{server}/api/v1/query?query={query}")["data"]["result"]
    return [value for series in found for _, text in series["values"] if math.isfinite(value := float(text))]


def test_discovery_has_real_targets(world):
    """Prometheus finds Ray's and TransferQueue's metrics by asking the monitor; the hf engine has none."""
    server, monitor, *_ = world

    def up() -> dict[str, set[str]]:
        targets = get(f"{server}/api/v1/targets")["data"]["activeTargets"]
        return {one["labels"]["job"]: one["health"] for one in targets if one["labels"].get("run") == NAME}

    wait(lambda: up() == {"ray": "up", "transfer_queue": "up"}, 60, "targets")
    assert values(server, f'ray_node_mem_total{{run="{NAME}"}}') and values(
        server, f'{{job="transfer_queue",run="{NAME}"}}'
    )
    assert get(f"{monitor}/api/prometheus/targets?job=rollout") == []


def test_files_of_others_are_not_overwritten(world):
    """Ray's own is as Ray wrote it, the user's as it was; verl's jobs are in the run's folder."""
    _, _, run_dir, ray_folder, default = world
    rays = glob.glob(str(ray_folder / "session_*/metrics/prometheus/prometheus.yml"))  # none without Ray's dashboard
    assert all("rollout" not in Path(path).read_text() for path in rays)
    assert read_default() == default
    assert "alerts.yml" in (run_dir.parent.parent / "prometheus.yml").read_text()
    assert "job_name: rollout" in (run_dir / "prometheus.yml").read_text()


def test_an_alert_fires_when_the_run_is_killed(world):
    server, _, _, ray_folder, _ = world
    ended = {("RunFailed", NAME), ("RunDied", NAME)}
    assert not firing(server) & ended
    kill(ray_folder)
    started = time.monotonic()
    wait(lambda: firing(server) & ended, 60, "the alert")
    print(f"alert after {time.monotonic() - started:.0f} s")
