"""What Prometheus is told of runs, machine and targets, and the files that are made from the metric table."""

from __future__ import annotations

import json
import math
import re
import time

import pytest
import yaml

from common.machine_use import Gpu, Moment
from common.metrics.names import METRICS
from common.run_dir import TARGETS_FILE, metrics_path, update_run
from monitor.prometheus import ALL, FIXED, MAX_RUNS, PREFIX, TABLE, RunsCollector, active, exposition, scores
from monitor.runs import Row
from monitor.store import Monitor
from monitor.targets import targets
from tests.conftest import ROOT
from training_platform.observe import make

DATA = {
    "critic/score/mean": 0.5, "actor/pg_loss": 0.25, "actor/kl_loss": 0.01, "actor/entropy": 1.5, "actor/lr": 1e-6,
    "response_length/mean": 12.0, "timing_s/step": 3.0,
    "val-core/math/acc/mean@1": 0.75, "val-core/code/reward/mean@4": 0.5,
}  # fmt: skip


class Machine:
    """Stands in for the sampler."""

    gpu = Gpu(0, "H100", use=50.0, memory=2**30, total=2**33, temperature=60.0, power=300.0)
    moments = [Moment(0.0, 1.0, 2, 3, 40, 50, (gpu,))]


@pytest.fixture
def outputs(tmp_path):
    folder = tmp_path / "outputs" / "mine"
    folder.mkdir(parents=True)
    knobs = {"TOTAL_STEPS": "10", "ROLLOUT_ENGINE": "vllm"}
    update_run(folder, algorithm="grpo", model_name="demo", state="stopped", attempt=2, knobs=knobs)
    records = [{"step": step, "data": {**DATA, "actor/entropy": None if step == 3 else 1.5}} for step in (1, 2, 3)]
    metrics_path(folder, 1).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder.parent


def scraped(outputs):
    text = exposition(RunsCollector(Monitor(outputs), Machine()))().decode()
    samples = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            samples[name] = float(value)
    return text, samples


def test_a_run_and_the_machine(outputs):
    text, samples = scraped(outputs)
    expected = {
        'verlkit_run_info{algorithm="grpo",backend="vllm",model="demo",run="mine"}': 1,
        'verlkit_run_state{run="mine",state="stopped"}': 1, 'verlkit_run_state{run="mine",state="running"}': 0,
        'verlkit_run_step{run="mine"}': 3, 'verlkit_run_steps{run="mine"}': 10, 'verlkit_run_attempts{run="mine"}': 2,
        'verlkit_reward_mean{run="mine"}': 0.5, 'verlkit_policy_loss{run="mine"}': 0.25,
        'verlkit_kl_divergence{run="mine"}': 0.01, 'verlkit_learning_rate{run="mine"}': 1e-6,
        'verlkit_response_length_tokens{run="mine"}': 12, 'verlkit_run_step_duration_seconds{run="mine"}': 3,
        'verlkit_validation_score{data_source="math",run="mine"}': 0.75,
        'verlkit_validation_score{data_source="code",run="mine"}': 0.5,
        'verlkit_health_warning{metric="entropy",run="mine"}': 1,
        'verlkit_gpu_utilization_ratio{gpu="0",name="H100",run=""}': 0.5,
        'verlkit_gpu_memory_used_bytes{gpu="0",name="H100",run=""}': 2**30,
        'verlkit_gpu_temperature_celsius{gpu="0",name="H100",run=""}': 60,
        "verlkit_disk_used_bytes": 40,
    }  # fmt: skip
    assert {name: samples.get(name) for name in expected} == expected
    assert math.isnan(samples['verlkit_entropy{run="mine"}'])
    assert "process_resident_memory_bytes" in samples and "# TYPE verlkit_reward_mean gauge" in text


def test_a_run_whose_file_is_still_being_read_has_no_latest_number(outputs, monkeypatch):
    monitor = Monitor(outputs)
    kept = monitor.metrics("mine", 1.0)
    kept.loading = True
    monkeypatch.setattr(monitor, "metrics", lambda *_: kept)
    collector = RunsCollector(monitor, Machine())
    assert b"verlkit_reward_mean{" not in exposition(collector)()
    kept.loading = False
    assert b"verlkit_reward_mean{" in exposition(collector)()


def test_columns_are_read_under_their_lock(outputs, monkeypatch):
    """The thread that reads a long file makes them longer meanwhile."""
    monitor = Monitor(outputs)
    read, held = monitor.metrics("mine", 1.0), []

    class Watched:
        def __enter__(self):
            held.append(True)

        def __exit__(self, *_):
            held.pop()

    read.lock = Watched()
    series = read.columns.series
    monkeypatch.setattr(read.columns, "series", lambda name: series(name) if held else pytest.fail("without the lock"))
    monkeypatch.setattr(monitor, "metrics", lambda *_: read)
    assert b"verlkit_reward_mean{" in exposition(RunsCollector(monitor, Machine()))()


def test_a_run_json_with_other_knobs_than_a_mapping_leaves_the_others(outputs):
    other = outputs / "odd"
    other.mkdir()
    update_run(other, algorithm="sft", state="running", host="elsewhere", knobs=["a"])
    assert 'verlkit_run_step{run="mine"}' in scraped(outputs)[0]


def test_names_follow_the_conventions():
    names = [series.name for series in ALL]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"verlkit_[a-z][a-z0-9_]*", name) for name in names)
    assert not any(name.endswith("_total") for name in names)  # no counter among them
    assert {series.name.removeprefix(PREFIX) for series in FIXED} >= {"build_info", "run_state", "health_warning"}
    shown = {metric.name for metric in METRICS if metric.group}
    assert shown - set(TABLE) == {"step_time", "val_score"}


def test_only_runs_of_the_last_hour_and_not_too_many():
    now = time.time()
    old = {"old": Row("old", ROOT, "run", state="finished", updated=now - 4000)}
    fresh = {str(n): Row(str(n), ROOT, "run", state="finished", updated=now) for n in range(80)}
    live = {"live": Row("live", ROOT, "run", state="running", updated=now - 4000)}
    found = [row.id for row in active(old | fresh | live)]
    assert len(found) == MAX_RUNS and found[0] == "live" and "old" not in found


def test_accuracy_counts_before_reward():
    class Held:
        def names(self):
            return [
                "val-core/a/reward/mean@1",
                "val-core/a/acc/mean@1",
                "val-aux/b/c/reward/mean@4",
                "val-core/a/acc/std",
            ]

        def series(self, name):
            return [1], [{"val-core/a/acc/mean@1": 0.9, "val-aux/b/c/reward/mean@4": 0.2}.get(name, 0.1)]

    assert scores(Held()) == {"a": 0.9, "b/c": 0.2}


def test_a_score_without_a_data_source_is_there_too():
    class Held:
        def names(self):
            return ["val/loss"]

        def series(self, name):
            return [1], [0.25] if name == "val_score" else []

    assert scores(Held()) == {"validation": 0.25}


def test_targets_of_runs_that_are_under_way(outputs, monkeypatch):
    folder = outputs / "mine"
    (folder / TARGETS_FILE).write_text(json.dumps({"ray": ["10.0.0.1:8080", "not an address"], "transfer_queue": []}))
    config = {
        "scrape_configs": [
            {"job_name": "ray"},
            {"job_name": "rollout", "static_configs": [{"targets": ["h:1", "h:2"]}]},
        ]
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    assert targets(Monitor(outputs), "ray") == []  # it has ended
    monkeypatch.setattr("monitor.runs.is_alive", lambda *_: True)
    update_run(folder, state="running", host="elsewhere")
    monitor = Monitor(outputs)
    assert targets(monitor, "ray") == [{"targets": ["10.0.0.1:8080"], "labels": {"run": "mine"}}]
    assert targets(monitor, "rollout") == [{"targets": ["h:1", "h:2"], "labels": {"run": "mine"}}]
    assert targets(monitor, "transfer_queue") == []
    grows = "".join(f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcd", "bcde", strict=True))
    for text in ("[", "a: !!int ''", "a: &a [x]\n" + grows + "scrape_configs: *e"):
        (folder / "prometheus.yml").write_text(text)
        assert targets(monitor, "rollout") == []


def test_the_files_are_those_that_the_table_makes():
    for path, text in make.files().items():
        assert path.read_text() == text, f"{path.name}: run python -m training_platform.observe"


def test_every_series_has_a_panel_and_every_panel_has_a_series():
    texts = "".join(json.dumps(board["panels"]) for board in (make.runs(), make.cluster()))
    named = set(re.findall(r"verlkit_\w+", texts + json.dumps(make.alerts()) + json.dumps(make.runs()["templating"])))
    of_queue = {"verlkit_gpu_slots", "verlkit_jobs", "verlkit_jobs_ended_total"}
    left_out = {"verlkit_build_info", "verlkit_run_attempts", "verlkit_checkpoint_bytes"}
    assert named - of_queue == {series.name for series in ALL} - left_out


def test_panels_do_not_overlap():
    for board in (make.runs(), make.cluster()):
        taken = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
            taken |= cells
