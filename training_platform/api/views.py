"""What the API says of a job: the database's row, run.json and the newest numbers put together."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from pydantic import BaseModel, ConfigDict

from common.metrics.names import friendly
from common.run_dir import read_run
from monitor.runs import Row
from monitor.store import Monitor
from training_platform.queue.scheduler import Scheduler
from training_platform.queue.store import ACTIVE, Job


class View(BaseModel):
    """An answer; numbers that JSON cannot hold are null."""

    model_config = ConfigDict(protected_namespaces=(), ser_json_inf_nan="null")


class Waiting(View):
    """Place in the queue (1: next), slots needed and free, and who has the others."""

    position: int
    needs: int
    free: int
    waits_for: list[str]


class Progress(View):
    """How far a run is; seconds."""

    step: int | None
    total_steps: int | None
    percent: float | None
    step_seconds: float | None
    eta_seconds: float | None


class JobView(View):
    """A job, or a run that was started by hand (`backend` none)."""

    uuid: str
    name: str
    description: str = ""
    owner: str = ""
    tags: list[str] = []
    algorithm: str = ""
    model_path: str | None = None
    model_size: str = ""
    state: str
    reason: str | None = None
    reason_code: str | None = None
    error: dict[str, Any] | None = None
    exit_status: int | None = None
    backend: str
    num_gpus: int | None = None
    nnodes: int = 1
    gpus: list[str] = []
    priority: int = 0
    queue: Waiting | None = None
    run_dir: str | None = None
    request: dict[str, Any] = {}
    knobs: dict[str, Any] | None = None
    progress: Progress | None = None
    latest: dict[str, float | None] = {}
    warnings: list[str] = []
    attempts: int = 0
    restarts: int = 0
    parent: str | None = None
    created_at: str | None = None
    queued_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    links: dict[str, str] = {}


class Views:
    """Makes the answers.

    Args:
        scheduler: The queue.
        monitor: The runs.
    """

    def __init__(self, scheduler: Scheduler, monitor: Monitor):
        self.scheduler, self.store, self.monitor = scheduler, scheduler.store, monitor

    def job(self, job: Job, full: bool = True) -> JobView:
        """A job; without `full` what a list shows of it."""
        asked = job.request["asked"]
        run_dir = self.scheduler.outputs / job.run
        ran = job.launches > 0 and run_dir.is_dir()
        view = JobView(
            uuid=job.uuid,
            name=job.run,
            state=job.state,
            backend=job.request.get("backend", self.scheduler.backend.name),
            nnodes=job.request.get("nnodes", 1),
            algorithm=job.request["folder"],
            num_gpus=job.slots.get("gpu", 0),
            gpus=[name for name in job.assigned if "gpu" in job.slots],
            warnings=job.request["warnings"],
            attempts=job.launches,
            run_dir=str(run_dir) if ran else None,
            links=_links(job.uuid),
            **{name: asked.get(name) or "" for name in ("description", "owner", "model_size")},
            **{name: asked.get(name) for name in ("model_path",)},
            tags=asked.get("tags") or [],
            **{
                name: getattr(job, name)
                for name in (
                    "reason",
                    "reason_code",
                    "error",
                    "exit_status",
                    "priority",
                    "restarts",
                    "parent",
                    "created_at",
                    "queued_at",
                    "started_at",
                    "ended_at",
                )
            },
        )
        if full:
            view.request = asked
            view.queue = self.waiting(job) if job.state == "queued" else None
            if ran:
                self._add_run(view, self.monitor.row(job.run))
        return view

    def run(self, row: Row, full: bool = True) -> JobView:
        """A run that no job of this database has started."""
        run = row.run
        view = JobView(
            uuid=str(run.get("job_uuid") or row.id),
            name=row.id,
            state=row.state,
            reason=row.reason or None,
            backend="external" if run.get("algorithm") == "external" else "none",
            algorithm=row.algorithm,
            model_path=str(run["model"]) if run.get("model") else None,
            run_dir=str(row.path),
            started_at=_time(row.started),
            created_at=_time(row.started),
            ended_at=run.get("ended") if isinstance(run.get("ended"), str) else None,
            links=_links(str(run.get("job_uuid") or row.id)),
        )
        if full:
            self._add_run(view, row)
        return view

    def waiting(self, job: Job) -> Waiting:
        """Where a queued job is, and what for it waits."""
        (kind, count), *_ = job.slots.items()
        free = self.scheduler.free(kind)
        holders = [
            f"job {one.run} holds {len(one.assigned)}" for one in self.store.in_states(ACTIVE) if kind in one.slots
        ]
        taken = {name for one in self.store.in_states(ACTIVE) for name in one.assigned}
        left = [gpu for gpu in self.scheduler.slots.gpus if gpu not in taken]
        held = self.scheduler.holders.of(left) if kind == "gpu" else {}
        holders += [f"GPU {gpu}: {who}" for gpu, who in held.items()]
        return Waiting(position=self.store.position(job), needs=count, free=len(free), waits_for=holders)

    def _add_run(self, view: JobView, row: Row | None) -> None:
        """Knobs, progress and newest numbers of a run directory."""
        try:
            run = row.run if row else read_run(self.scheduler.outputs / view.name)
        except (OSError, ValueError):
            run = {}
        knobs = run.get("knobs")
        view.knobs = knobs if isinstance(knobs, dict) else None
        if row is None:
            return
        done = 100.0 * row.step / row.total if row.total and row.step is not None else None
        view.progress = Progress(
            step=row.step, total_steps=row.total, percent=done, step_seconds=row.step_time, eta_seconds=row.eta
        )
        metrics = self.monitor.metrics(row.id)
        if metrics is not None and metrics.poll(1.0):  # else a long file is still being read: no number is the latest
            with metrics.lock:
                columns = metrics.columns
                newest = {name: columns.series(name)[1] for name in columns.table_names()}
            view.latest = {name: float(values[-1]) for name, values in newest.items() if len(values)}


def eval_results(data: dict[str, Any]) -> dict[str, float]:
    """Data source -> score, of the validation in a record of metrics; accuracy where there is one."""
    found: dict[str, float] = {}
    for key, value in data.items():
        parts = key.split("/")
        if parts[0] == "val-core" and len(parts) >= 4 and isinstance(value, (int, float)):
            source, kind = "/".join(parts[1:-2]), parts[-2]
            if kind == "acc" or source not in found:
                found[source] = float(value)
    if not found and (score := friendly(data).get("val_score")) is not None:
        found["validation"] = score
    return found


def _links(uuid: str) -> dict[str, str]:
    base = f"/api/jobs/{uuid}"
    return {name: f"{base}/{name}" for name in ("metrics", "events", "log", "checkpoints")}


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
