"""Debian's own Prometheus scrapes a monitor beside a run; an alert fires when the run is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from monitor.prometheus import FIXED, TABLE
from tests.conftest import ROOT, free_port
from tests.prometheus_server import firing, get, programs_in, serve, wait
from tests.unit.test_attempt import LAUNCHER
from training_platform.observe.make import HERE

pytestmark = pytest.mark.nightly
# Every metric of the table that has a panel, by the first of its names; a step every half second.
TRAINER = """
import json, os, time
from common.metrics.names import METRICS
shown = [metric for metric in METRICS if metric.group and metric.sources]
names = [metric.sources[0].replace("*", "x", 1).replace("@*", "@1") for metric in shown]
data = {name: 0.5 for name in names} | {"critic/score/std": 0.1, "actor/entropy": 0.001, "timing_s/step": 0.5}
data |= {"val-core/math/acc/mean@1": 0.25, "perf/time_per_step": 0.5}
step = 0
while True:
    step += 1
    with open(os.environ["VERL_FILE_LOGGER_PATH"], "a") as log:
        log.write(json.dumps({"step": step, "data": data}) + chr(10))
    time.sleep(0.5)
"""
ENDED = {("RunFailed", "killed"), ("RunDied", "killed")}
THROUGH_GRAFANA = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
register_default_plugins()
print(JSONEncoder().encode(Dashboard.from_json(json.load(open(sys.argv[1])))))
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    return programs_in(tmp_path_factory.mktemp("debian"))


@pytest.fixture(scope="module")
def world(programs, tmp_path_factory):
    """A run, a monitor, and a Prometheus with the kit's rules."""
    tmp_path = tmp_path_factory.mktemp("world")
    monitor_port, port = free_port(), free_port()
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    knobs = {"MODEL_PATH": "demo", "DEVICE": "cpu", "TRAIN_DATA": "a", "VAL_DATA": "b", "TOTAL_STEPS": "5000"}
    settings = {
        "RUN_DIR": str(outputs / "killed"),
        "KNOBS_JSON": json.dumps(knobs),
        "ALGORITHM": "grpo",
        "TRAINER": TRAINER,
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    run = subprocess.Popen([sys.executable, "-c", LAUNCHER], env=environment, cwd=ROOT, start_new_session=True)
    command = [sys.executable, "monitor/app.py", "--port", str(monitor_port), "--log_dir", str(outputs)]
    monitor = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    server = serve(programs, tmp_path, port, monitor_port)
    try:
        yield f"http://127.0.0.1:{port}", f"http://localhost:{monitor_port}", run
    finally:
        for process in (server, monitor, run):
            process.terminate()
        for process in (server, monitor, run):
            process.wait(30)


def test_rules_and_names_are_to_prometheus_liking(programs, world):
    _, monitor, _ = world
    wait(lambda: urllib.request.urlopen(f"{monitor}/metrics", timeout=10), 180, "the monitor's /metrics")
    for arguments in (["check", "rules", str(HERE / "alerts.yml")], ["check", "config", str(HERE / "prometheus.yml")]):
        done = subprocess.run([str(programs / "promtool"), *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    text = wait(lambda: _with(f"{monitor}/metrics", b"verlkit_reward_mean{"), 120, "the run")
    done = subprocess.run([str(programs / "promtool"), "check", "metrics"], input=text, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _with(address: str, words: bytes) -> bytes | None:
    text = urllib.request.urlopen(address, timeout=10).read()
    return text if words in text else None


def test_every_series_is_scraped(world):
    server, _, _ = world
    no_gpu = {series.name for series in FIXED if "_gpu_" in series.name}  # there may be none here
    no_checkpoint = {"verlkit_checkpoint_step", "verlkit_checkpoint_bytes"}
    no_source = {TABLE["reward_std_bound"].name}  # of logs without a spread
    wanted = {series.name for series in (*FIXED, *TABLE.values())} - no_gpu - no_checkpoint - no_source
    names = f"{server}/api/v1/label/__name__/values"
    wait(
        lambda: wanted <= set(get(names)["data"]),
        180,
        "series",
    )
    targets = get(f"{server}/api/v1/targets")["data"]["activeTargets"]
    assert [one["health"] for one in targets] == ["up"]  # discovery works, and there is nothing to discover


def test_an_alert_fires_when_the_run_is_killed(world):
    server, _, run = world

    wait(
        lambda: "killed" in str(get(f"{server}/api/v1/query?query={urllib.parse.quote('verlkit_run_step > 3')}")),
        120,
        "steps",
    )
    assert not firing(server) & ENDED
    os.kill(run.pid, signal.SIGKILL)
    started = time.monotonic()
    wait(lambda: firing(server) & ENDED, 60, "the alert")
    print(f"alert after {time.monotonic() - started:.0f} s")


def test_grafanas_schema_takes_both_dashboards_whole(tmp_path):
    """Its official models read each field and write it again; what they do not know would be lost on the way."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*command, "grafana-foundation-sdk"], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for path in sorted((HERE / "grafana" / "dashboards").glob("*.json")):
        done = subprocess.run(
            [sys.executable, "-c", THROUGH_GRAFANA, path], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert _lost(json.loads(path.read_text()), json.loads(done.stdout)) == [], path.name


def _lost(before, after, place="") -> list[str]:
    """What is in the one and not in the other."""
    if isinstance(before, dict):
        gone = [f"{place}/{name}" for name in before if name not in after]
        return gone + [
            one for name in before if name in after for one in _lost(before[name], after[name], f"{place}/{name}")
        ]
    if isinstance(before, list):
        pairs = zip(before, after, strict=True)
        return [one for index, pair in enumerate(pairs) for one in _lost(*pair, f"{place}/{index}")]
    return [] if before == after else [place]
