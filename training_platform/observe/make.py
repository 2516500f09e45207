"""Dashboards and alert rules, made from the metric table and the series that are exposed."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import yaml

from common.metrics.names import METRICS, Metric
from monitor.prometheus import OWN, TABLE
from monitor.targets import Job

HERE = Path(__file__).resolve().parent
HEAD = "# Made by python -m training_platform.observe from the metric table; do not edit.\n"
UNITS = {"_seconds": "s", "_bytes": "bytes", "_ratio": "percentunit", "_celsius": "celsius", "_watts": "watt"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 3
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel(title: str, expression: str, legend: str, unit: str = "none", **options: Any) -> dict[str, Any]:
    """A curve.

    Args:
        title: Above it.
        expression: In PromQL.
        legend: Of a curve, with Prometheus' labels in ``{{ }}``.
        unit: As Grafana calls it.
        options: ``limits``: values at which a line is drawn; ``kind``: another kind of panel; ``text``: the help.
    """
    defaults: dict[str, Any] = {"unit": unit}
    if limits := options.get("limits"):
        steps = [{"color": "green", "value": None}, *({"color": "orange", "value": limit} for limit in limits)]
        defaults |= {
            "thresholds": {"mode": "absolute", "steps": steps},
            "custom": {"thresholdsStyle": {"mode": "line"}},
        }
    return {
        "type": options.get("kind", "timeseries"),
        "title": title,
        "description": options.get("text", ""),
        "datasource": DATASOURCE,
        "targets": [{"refId": "A", "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}],
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }


def laid_out(rows: list[tuple[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Rows of panels with their places."""
    placed, y = [], 0
    for title, panels in rows:
        placed.append({"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(0, y, 24, 1)})
        y += 1
        for index, one in enumerate(panels):
            x, down = index % COLUMNS * WIDTH, index // COLUMNS * HEIGHT
            placed.append({**one, "gridPos": _place(x, y + down, WIDTH, HEIGHT)})
        y += -(-len(panels) // COLUMNS) * HEIGHT
    return placed


def _place(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def dashboard(uid: str, title: str, rows: list[tuple[str, list[dict[str, Any]]]], runs: bool) -> dict[str, Any]:
    """A dashboard; it has no id and no version, so that a change of it reads well."""
    variables: list[dict[str, Any]] = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    ]
    if runs:
        variables.append(
            {
                "name": "run",
                "type": "query",
                "label": "Run",
                "datasource": DATASOURCE,
                "query": {"query": "label_values(verlkit_run_info, run)", "refId": "run"},
                "refresh": 2,
                "multi": True,
                "includeAll": True,
                "allValue": ".*",
                "current": {"text": "All", "value": "$__all"},
            }
        )
    return {
        "uid": uid,
        "title": title,
        "tags": ["verl"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "templating": {"list": variables},
        "annotations": {"list": []},
        "links": [],
        "panels": laid_out(rows),
    }


def _unit(name: str) -> str:
    return next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "none")


def _curve(metric: Metric) -> dict[str, Any]:
    name = TABLE[metric.name].name
    limits = [limit for limit in (metric.low, metric.high) if limit is not None]
    advice = " ".join(part for part in (metric.below, metric.above) if part)
    return panel(metric.label, f'{name}{{run=~"$run"}}', "{{run}}", _unit(name), limits=limits, text=advice)


def runs() -> dict[str, Any]:
    """State and every metric of the table, by its groups, with the healthy limits as lines."""
    of_run = '{run=~"$run"}'
    state = [
        panel("State", 'verlkit_run_state{run=~"$run"} == 1', "{{run}}: {{state}}", kind="stat"),
        panel(
            "Step", f"verlkit_run_step{of_run} / verlkit_run_steps{of_run}", "{{run}}", "percentunit", kind="bargauge"
        ),
        panel("Time left", f"verlkit_run_eta_seconds{of_run}", "{{run}}", "s", kind="stat"),
        panel("Health warnings", f"verlkit_health_warning{of_run}", "{{run}}: {{metric}}"),
        panel("Newest checkpoint (step)", f"verlkit_checkpoint_step{of_run}", "{{run}}"),
        panel("Step time", f"verlkit_run_step_duration_seconds{of_run}", "{{run}}", "s"),
    ]
    shown = sorted((m for m in METRICS if m.group and m.name not in OWN), key=lambda metric: metric.group)
    groups = [(key.partition(" ")[2].capitalize(), [*found]) for key, found in groupby(shown, lambda m: m.group)]
    rows = [("State", state)]
    for title, metrics in groups:
        panels = [_curve(metric) for metric in metrics]
        if title == "Reward":
            score = panel("Validation score", f"verlkit_validation_score{of_run}", "{{run}}: {{data_source}}")
            panels.insert(0, score)
        rows.append((title, panels))
    return dashboard("verlkit-runs", "Runs", rows, runs=True)


def cluster() -> dict[str, Any]:
    """Queue, GPUs, Ray's nodes, the rollout engine and TransferQueue."""
    gpu, ray = "{{gpu}} {{run}}", "{{ip}}{{instance}}"
    rows = [
        (
            "Queue",
            [
                panel("GPUs", "verlkit_gpu_slots", "{{state}}"),
                panel("Jobs", 'sum by (state) (verlkit_jobs{state=~"queued|starting|running|stopping"})', "{{state}}"),
                panel(
                    "Jobs that ended",
                    "sum by (state, reason) (increase(verlkit_jobs_ended_total[1h]))",
                    "{{state}} {{reason}}",
                ),
            ],
        ),
        (
            "GPUs of this machine",
            [
                panel("GPU use", "verlkit_gpu_utilization_ratio", gpu, "percentunit"),
                panel(
                    "GPU memory", "verlkit_gpu_memory_used_bytes / verlkit_gpu_memory_total_bytes", gpu, "percentunit"
                ),
                panel("Power", "verlkit_gpu_power_watts", gpu, "watt"),
                panel("Temperature", "verlkit_gpu_temperature_celsius", gpu, "celsius"),
                panel("Disk of the runs", "verlkit_disk_used_bytes / verlkit_disk_total_bytes", "used", "percentunit"),
            ],
        ),
        (
            "Ray (PROMETHEUS=true)",
            [
                panel("CPU of each node", "ray_node_cpu_utilization / 100", ray, "percentunit"),
                panel("Memory of each node", "ray_node_mem_used / ray_node_mem_total", ray, "percentunit"),
                panel("GPUs of each node", "ray_node_gpus_utilization / 100", "{{ip}} {{GpuIndex}}", "percentunit"),
                # it says bytes and is MiB
                panel("GPU memory of each node", "ray_node_gram_used * 1024 * 1024", "{{ip}} {{GpuIndex}}", "bytes"),
            ],
        ),
        (
            "Rollout engine (PROMETHEUS=true)",
            [
                panel("Answers under way", "vllm:num_requests_running or sglang:num_running_reqs", "{{instance}}"),
                panel("Answers that wait", "vllm:num_requests_waiting or sglang:num_queue_reqs", "{{instance}}"),
                panel("KV cache", "vllm:kv_cache_usage_perc or sglang:token_usage", "{{instance}}", "percentunit"),
            ],
        ),
        (
            "TransferQueue (PROMETHEUS=true)",
            [
                panel("Samples", "tq_partition_samples_total", "{{partition_id}}"),
                panel("Storage in use", "tq_storage_utilization_ratio", "{{instance}}", "percentunit"),
                panel("Memory of the controller", "tq_controller_memory_rss_bytes", "{{instance}}", "bytes"),
            ],
        ),
    ]
    return dashboard("verlkit-cluster", "Cluster", rows, runs=False)


def alerts() -> dict[str, Any]:
    """Alert rules; the numbers that must be finite are those of the table."""
    running = 'on (run) verlkit_run_state{state="running"} == 1'
    finite = [TABLE[metric.name].name for metric in METRICS if metric.finite and metric.name in TABLE]
    nan = " or ".join(f"({name} != {name})" for name in finite)
    stalled = "time() - verlkit_run_last_step_timestamp_seconds > 10 * verlkit_run_step_duration_seconds + 60"
    found = [
        ("RunFailed", 'verlkit_run_state{state="failed"} == 1', "0s", "error", "{{ $labels.run }} has failed"),
        ("RunDied", 'verlkit_run_state{state=~"died|silent"} == 1', "0s", "error", "{{ $labels.run }} has died"),
        ("RunStalled", f"({stalled}) and {running}", "1m", "error", "{{ $labels.run }}: no step for ten step times"),
        (
            "HealthWarning",
            "verlkit_health_warning == 1",
            "5m",
            "warning",
            "{{ $labels.run }}: {{ $labels.metric }} is out of its healthy range; the Health tab has the advice",
        ),
        ("ValueNaN", nan, "0s", "error", "{{ $labels.run }}: a number that must be finite is NaN"),
        (
            "GpuIdle",
            'verlkit_gpu_utilization_ratio{run!=""} < 0.05',
            "15m",
            "warning",
            "GPU {{ $labels.gpu }} of {{ $labels.run }} does nothing",
        ),
        (
            "DiskNearlyFull",
            "verlkit_disk_used_bytes / verlkit_disk_total_bytes > 0.95",
            "5m",
            "error",
            "the disk of the runs is nearly full",
        ),
        ("PlatformDown", 'up{job="kit"} == 0', "2m", "error", "{{ $labels.instance }} does not answer"),
    ]
    rules = [
        {"alert": name, "expr": expr, "for": time, "labels": {"severity": level}, "annotations": {"summary": text}}
        for name, expr, time, level, text in found
    ]
    return {"groups": [{"name": "verlkit", "rules": rules}]}


def prometheus() -> dict[str, Any]:
    """Prometheus' own file: the kit, and what it tells of its runs."""
    kit = "localhost:8000"
    jobs: list[dict[str, Any]] = [{"job_name": "kit", "static_configs": [{"targets": [kit, "localhost:7860"]}]}]
    for job in get_args(Job):
        url = f"http://{kit}/api/prometheus/targets?job={job}"
        jobs.append({"job_name": job, "http_sd_configs": [{"url": url, "refresh_interval": "15s"}]})
    return {
        "global": {"scrape_interval": "10s", "evaluation_interval": "10s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": jobs,
    }


def provisioning() -> dict[str, dict[str, Any]]:
    """Grafana's provisioning: the Prometheus of this machine, and the folder of the dashboards."""
    source = {
        "name": "Prometheus",
        "uid": "verlkit",
        "type": "prometheus",
        "url": "http://localhost:9090",
        "isDefault": True,
    }
    provider = {
        "name": "verlkit",
        "type": "file",
        "options": {"path": "${VERLKIT_DASHBOARDS}"},
    }
    return {
        "datasources/prometheus.yml": {"apiVersion": 1, "datasources": [source]},
        "dashboards/verlkit.yml": {"apiVersion": 1, "providers": [provider]},
    }


def files() -> dict[Path, str]:
    """Every file and its text."""
    boards = {"runs": runs(), "cluster": cluster()}
    found = {HERE / f"grafana/dashboards/{name}.json": json.dumps(one, indent=1) + "\n" for name, one in boards.items()}
    texts = {"alerts.yml": alerts(), "prometheus.yml": prometheus()}
    texts |= {f"grafana/provisioning/{name}": one for name, one in provisioning().items()}
    return found | {HERE / name: HEAD + yaml.safe_dump(one, sort_keys=False, width=120) for name, one in texts.items()}


def write_all() -> list[Path]:
    """Write them; returns their paths."""
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(files())
