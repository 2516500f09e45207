"""What Prometheus scrapes: the active runs and the machine, read when it asks, so that nothing can be stale.

Names follow https://prometheus.io/docs/practices/naming/: prefix ``verlkit_``, base units, ``_total`` on counters only.
The table of `common.metrics.names` gives one series for each metric that has a panel.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from common import __version__
from common.machine_use import Gpu
from common.metrics.names import METRICS
from common.metrics.names import Metric as TableRow
from common.verl_ext.version import installed
from monitor.checkpoints import saved_in
from monitor.health import find, longest_answer
from monitor.runs import Row
from monitor.store import Monitor
from monitor.system import Sampler

PREFIX = "verlkit_"
ACTIVE_SECONDS = 3600.0  # a run that has ended is shown so long
MAX_RUNS = 50
LIVE = ("running", "live", "silent")
STATES = ("running", "finished", "failed", "stopped", "died", "silent", "live", "quiet", "damaged")
SUFFIXES = {"s": "_seconds", "tokens": "_tokens"}  # of a name, by the unit of the table
OWN = {"step_time", "val_score"}  # metrics of the table that have another name here
CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True)
class Series:
    """One name that is exposed.

    Args:
        name: With the prefix.
        help: One sentence.
        labels: Beside none.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ("run",)


def series_of(metric: TableRow) -> Series:
    """What a metric of the table is called here."""
    unit = SUFFIXES.get(metric.unit, "")
    suffix = "" if metric.name.endswith(unit) else unit
    return Series(f"{PREFIX}{metric.name}{suffix}", f"{metric.label} of the last step that has it.")


TABLE = {metric.name: series_of(metric) for metric in METRICS if metric.group and metric.name not in OWN}
FIXED = tuple(
    Series(PREFIX + name, text, labels)
    for name, text, labels in (
        ("build_info", "Versions of the kit, of verl and of Python.", ("version", "verl", "python")),
        ("run_info", "What is trained.", ("run", "algorithm", "model", "backend")),
        ("run_state", "1 for the state that a run is in, 0 for the others.", ("run", "state")),
        ("run_step", "The last step.", ("run",)),
        ("run_steps", "Steps that the run will have.", ("run",)),
        ("run_attempts", "Launches of the run.", ("run",)),
        ("run_step_duration_seconds", "Median duration of the last steps.", ("run",)),
        ("run_eta_seconds", "Time left.", ("run",)),
        ("run_last_step_timestamp_seconds", "When the metrics were last written, since 1970.", ("run",)),
        ("validation_score", "Last validation score.", ("run", "data_source")),
        ("health_warning", "1 for each health rule that is broken now.", ("run", "metric")),
        ("checkpoint_step", "Step of the newest complete checkpoint.", ("run",)),
        ("checkpoint_bytes", "Its size.", ("run",)),
        ("gpu_utilization_ratio", "Share of the time in which the GPU computes, 0-1.", ("gpu", "name", "run")),
        ("gpu_memory_used_bytes", "GPU memory in use.", ("gpu", "name", "run")),
        ("gpu_memory_total_bytes", "GPU memory that there is.", ("gpu", "name", "run")),
        ("gpu_temperature_celsius", "Temperature of the GPU.", ("gpu", "name", "run")),
        ("gpu_power_watts", "Power that the GPU draws.", ("gpu", "name", "run")),
        ("disk_used_bytes", "Used on the disk of the runs.", ()),
        ("disk_total_bytes", "Size of the disk of the runs.", ()),
    )
)
ALL = (*FIXED, *TABLE.values())


class Families:
    """The families of one answer, each made when it is first used."""

    def __init__(self) -> None:
        self._made: dict[str, GaugeMetricFamily] = {}
        self._known = {series.name: series for series in ALL}

    def add(self, name: str, value: float | None, /, **labels: str) -> None:
        """Add a sample, unless the value is not known."""
        if value is None:
            return
        series = self._known[PREFIX + name]
        family = self._made.get(series.name)
        if family is None:
            family = self._made[series.name] = GaugeMetricFamily(series.name, series.help, labels=series.labels)
        family.add_metric([labels[label] for label in series.labels], float(value))

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._made.values())


class RunsCollector:
    """Runs and machine as Prometheus asks for them.

    Args:
        monitor: The log folder.
        sampler: The machine.
        more: Other families, of the platform.
    """

    def __init__(self, monitor: Monitor, sampler: Sampler, more: Callable[[], Iterable[Metric]] = tuple):
        self.monitor, self.sampler, self.more = monitor, sampler, more
        self._judged: dict[str, tuple[int, tuple[str, ...]]] = {}

    def describe(self) -> list[Metric]:
        """Nothing: what there is depends on the runs."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families."""
        families = Families()
        versions = {"version": __version__, "verl": installed("verl"), "python": platform.python_version()}
        families.add("build_info", 1, **versions)
        for row in active(self.monitor.rows()):
            self._run(families, row)
        if self.sampler.moments:
            self._machine(families)
        yield from families
        yield from self.more()

    def _run(self, families: Families, row: Row) -> None:
        run, knobs = row.id, row.knobs
        backend = str(knobs.get("ROLLOUT_ENGINE") or "")
        families.add("run_info", 1, run=run, algorithm=row.algorithm, model=row.model, backend=backend)
        for state in STATES:
            families.add("run_state", row.state == state, run=run, state=state)
        families.add("run_step", row.step, run=run)
        families.add("run_steps", row.total, run=run)
        attempts = row.run.get("attempt")
        families.add("run_attempts", attempts if isinstance(attempts, int) else None, run=run)
        families.add("run_step_duration_seconds", row.step_time, run=run)
        families.add("run_eta_seconds", row.eta, run=run)
        families.add("run_last_step_timestamp_seconds", row.updated or None, run=run)
        self._numbers(families, row)
        saved = saved_in(row.path) if row.kind == "run" else []
        if newest := next((one for one in saved if one.step is not None and not one.problems), None):
            families.add("checkpoint_step", newest.step, run=run)
            families.add("checkpoint_bytes", newest.size, run=run)

    def _numbers(self, families: Families, row: Row) -> None:
        metrics = self.monitor.metrics(row.id, 0.5)
        if metrics is None or metrics.loading:  # of a long file that is still being read no number is the latest
            return
        with metrics.lock:
            columns = metrics.columns
            for name in columns.table_names():
                _, values = columns.series(name)
                if name in TABLE and len(values):
                    families.add(TABLE[name].name.removeprefix(PREFIX), values[-1], run=row.id)
            for source, score in scores(columns).items():
                families.add("validation_score", score, run=row.id, data_source=source)
            for name in self._warnings(row, columns):
                families.add("health_warning", 1, run=row.id, metric=name)

    def _warnings(self, row: Row, columns: Any) -> tuple[str, ...]:
        """Names of the rules that are broken now; judged again only when there is something new."""
        known = self._judged.get(row.id)
        if known is None or known[0] != columns.size:
            found = find(columns, longest_answer(row.knobs), self.monitor.file(row.id, "rollouts"))
            known = columns.size, tuple(sorted({finding.name for finding in found if finding.now}))
            self._judged[row.id] = known
        return known[1]

    def _machine(self, families: Families) -> None:
        moment = self.sampler.moments[-1]
        families.add("disk_used_bytes", moment.disk)
        families.add("disk_total_bytes", moment.disk_total)
        for gpu in moment.gpus:
            labels = {"gpu": str(gpu.index), "name": gpu.name, "run": run_on(gpu)}
            families.add("gpu_utilization_ratio", None if gpu.use is None else gpu.use / 100, **labels)
            families.add("gpu_memory_used_bytes", gpu.memory, **labels)
            families.add("gpu_memory_total_bytes", gpu.total, **labels)
            families.add("gpu_temperature_celsius", gpu.temperature, **labels)
            families.add("gpu_power_watts", gpu.power, **labels)


def active(rows: dict[str, Row], now: float | None = None) -> list[Row]:
    """Runs of the last hour, newest first, at most `MAX_RUNS`; what a series is called must not grow without end."""
    now = time.time() if now is None else now
    found = [row for row in rows.values() if row.state in LIVE or now - row.updated < ACTIVE_SECONDS]
    return sorted(found, key=lambda row: row.state not in LIVE)[:MAX_RUNS]


def scores(columns: Any) -> dict[str, float]:
    """Data source to its last validation score, by the first of the table's sources that a run has."""
    found: dict[str, float] = {}
    names = columns.names()
    for group, wanted in (("val-core", "acc"), ("val-core", "reward"), ("val-aux", "reward")):
        for name in names:
            parts = name.split("/")
            if len(parts) >= 4 and parts[0] == group and parts[-2] == wanted and parts[-1].startswith("mean@"):
                _, values = columns.series(name)
                if len(values) and math.isfinite(values[-1]):
                    found.setdefault("/".join(parts[1:-2]), float(values[-1]))
    if not found:  # SFT's, DPO's and other trainers' score has no data source
        _, values = columns.series("val_score")
        if len(values) and math.isfinite(values[-1]):
            found["validation"] = float(values[-1])
    return found


def run_on(gpu: Gpu) -> str:
    """The run that a GPU's processes belong to, by their environment; "" for none, or another user's."""
    for process in gpu.processes:
        try:
            folder = psutil.Process(process.pid).environ().get("RUN_DIR")
        except psutil.Error:
            continue
        if folder:
            return folder.rstrip("/").rpartition("/")[2]
    return ""


def exposition(collector: RunsCollector) -> Callable[[], bytes]:
    """The answer to a scrape: the collector's families, and those of this process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(collector)
    return lambda: generate_latest(registry)
