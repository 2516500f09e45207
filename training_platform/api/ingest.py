"""What runs outside of the queue report: written to a run directory like any other, each batch once.

A batch has a session and a number. Its records are appended to files first, then its number and the files' new lengths
are committed. After a crash in between, the files are cut back to the last committed length when the next batch comes,
so the batch that is sent again is not there twice.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from common.run_dir import RUN_FILE, STATES, read_run, update_run
from training_platform.api.errors import ApiError
from training_platform.api.find import same_name
from training_platform.api.jobs import slug
from training_platform.queue.request import Prose, Text, Word, printable
from training_platform.queue.scheduler import Scheduler, free_name
from training_platform.queue.store import now

MAX_RECORDS = 5_000  # of a batch
MAX_NAMES = 5_000  # of a record's metrics
FILES = ("metrics.jsonl", "gpu.jsonl", "checkpoints.jsonl")
ELSEWHERE = "outside"  # host of a run that only reports: its process cannot be looked at
Step = Annotated[int, Field(strict=True, ge=0, lt=2**62)]
Number = float | None
Metrics = Annotated[dict[Annotated[str, Field(min_length=1, max_length=300)], Number], Field(max_length=MAX_NAMES)]
STATUS = {"running": "running", "finished": "finished", "completed": "finished", "failed": "failed", "error": "failed"}
STATUS |= {"stopped": "stopped", "cancelled": "stopped", "killed": "stopped"}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")
    time: float | None = Field(None, description="seconds since 1970")


class MetricsRecord(_Record):
    """Numbers of a step; null: not a number."""

    kind: Literal["metrics"]
    step: Step
    metrics: Metrics
    epoch: Number = None


class GpuRecord(_Record):
    """A GPU: percent, GB, GB, Celsius."""

    kind: Literal["gpu"]
    gpu_index: Annotated[int, Field(ge=0, le=10_000)]
    utilization: Number = None
    memory_used: Number = None
    memory_total: Number = None
    temperature: Number = None


class CheckpointRecord(_Record):
    """A checkpoint; its path is kept as text and never opened."""

    kind: Literal["checkpoint"]
    step: Step
    path: Text
    eval_results: Metrics | None = None


class StatusRecord(_Record):
    """What the run is doing, in its own words; running, finished, failed and stopped change its state."""

    kind: Literal["status"]
    status: Word
    message: Prose = ""


class SummaryRecord(_Record):
    """What the run came to."""

    kind: Literal["summary"]
    summary: dict[str, Any] = Field(max_length=1000)


class FinishRecord(_Record):
    """The end."""

    kind: Literal["finish"]


Record = MetricsRecord | GpuRecord | CheckpointRecord | StatusRecord | SummaryRecord | FinishRecord


class Batch(BaseModel):
    """Records in their order. A batch that was kept already is answered the same and not kept again."""

    model_config = ConfigDict(extra="forbid")
    job: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(printable)] = Field(
        description="any text; the platform shows a job under it"
    )
    session: Annotated[str, Field(pattern=r"^[\w-]{1,64}$")]
    seq: Annotated[int, Field(ge=1, lt=2**62)]
    records: Annotated[list[Annotated[Record, Field(discriminator="kind")]], Field(max_length=MAX_RECORDS)]


class Kept(BaseModel):
    """The number of the last batch that is kept, and whether this one is new."""

    seq: int
    new: bool


class Ingest:
    """Keeps what is reported.

    Args:
        scheduler: The queue, whose own runs need no report.
    """

    def __init__(self, scheduler: Scheduler):
        self.scheduler, self.store = scheduler, scheduler.store
        self._runs: dict[str, Path] = {}

    def keep(self, uuid: str, batch: Batch) -> Kept:
        """Appends a batch to the files of its run."""
        with self.store.lock:
            if batch.seq <= (last := self.store.seq(uuid, batch.session)):
                return Kept(seq=last, new=False)
            folder = self._folder(uuid)
            committed = self.store.file_bytes(uuid)
            sizes = {name: append(folder / name, lines, committed.get(name)) for name, lines in as_lines(batch).items()}
            with self.store.transaction():
                for name, size in sizes.items():
                    self.store.set_file_bytes(uuid, name, size)
                self.store.set_seq(uuid, batch.session, batch.seq)
            self._take_state(uuid, folder, batch)
        return Kept(seq=batch.seq, new=True)

    def _folder(self, uuid: str) -> Path:
        """The run directory of an id; made for one that nobody knows."""
        known = self._runs.get(uuid)
        if known is not None and (known / RUN_FILE).is_file():
            return known
        job = self.store.get(uuid)
        if job is not None and job.launches:
            raise _own_run(uuid)
        folder = self._runs[uuid] = self._find(uuid) or self._make(uuid, job.run if job else slug(uuid) or "job")
        return folder

    def _find(self, uuid: str) -> Path | None:
        """The directory that an earlier server has made.

        Raises:
            ApiError: 409 when a train.sh of these outputs has the id: its files are read.
        """
        for path in sorted(self.scheduler.outputs.glob(f"*/{RUN_FILE}")):
            try:
                run = read_run(path.parent)
            except (OSError, ValueError):
                continue
            if run.get("job_uuid") == uuid:
                if run.get("algorithm") != "external":
                    raise _own_run(uuid)
                return path.parent
        return None

    def _make(self, uuid: str, name: str) -> Path:
        job = self.store.get(uuid)
        run = name if job and job.run == name else free_name(self.store, self.scheduler.outputs, name)
        if not same_name(run):
            raise ApiError(422, "invalid", f"{uuid[:100]!r}: no folder can be named after it; use letters and digits")
        folder = self.scheduler.outputs / run
        folder.mkdir()
        facts = {"name": run, "job_uuid": uuid, "algorithm": "external", "state": "running", "reason": None}
        with self.store.transaction():
            for file in FILES:
                self.store.set_file_bytes(uuid, file, 0)
        update_run(folder, **facts, host=ELSEWHERE, started=now(), knobs={})
        return folder

    def _take_state(self, uuid: str, folder: Path, batch: Batch) -> None:
        """What the records say of the run as a whole."""
        before = state = read_run(folder).get("state")
        changes: dict[str, Any] = {}
        for record in batch.records:
            told = None
            if isinstance(record, StatusRecord):
                told = STATUS.get(record.status.lower(), record.status)
                changes["reason"] = record.message or None if told != "running" else None
            elif isinstance(record, FinishRecord):
                told = "finished" if state == "running" else None
            elif isinstance(record, SummaryRecord):
                changes["summary"] = record.summary
            elif state != "running":
                told, changes["reason"] = "running", None  # it has been taken up again
            if told:
                message = changes.get("reason")
                self.store.event(uuid, "state", {"state": told, "reason": message, "reason_code": None})
            state = told if told in STATES else state
        if state != before:
            changes |= {"state": state, "ended": None if state == "running" else now()}
        if changes:
            update_run(folder, **changes)


def _own_run(uuid: str) -> ApiError:
    return ApiError(409, "own_run", f"{uuid}: the platform reads this run itself; it needs no report")


def as_lines(batch: Batch) -> dict[str, list[dict[str, Any]]]:
    """The records by the file that they go to, in the form that the readers of runs know."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in batch.records:
        if isinstance(record, MetricsRecord):
            data = dict(record.metrics)
            if record.epoch is not None:
                data.setdefault("epoch", record.epoch)
            found.setdefault("metrics.jsonl", []).append({"step": record.step, "data": data})
        elif isinstance(record, GpuRecord):
            found.setdefault("gpu.jsonl", []).append(record.model_dump(exclude={"kind"}))
        elif isinstance(record, CheckpointRecord):
            data = {"path": record.path, "eval_results": record.eval_results}
            found.setdefault("checkpoints.jsonl", []).append({"step": record.step, "data": data})
    return found


def append(path: Path, lines: list[dict[str, Any]], committed: int | None) -> int:
    """Appends lines behind the committed length; returns the new one, in bytes.

    Args:
        path: The file.
        lines: What to append; numbers that are none become null.
        committed: Where the last kept batch ends; what is behind it was never acknowledged. None: not known, as the
            database was lost.
    """
    data = "".join(json.dumps(_finite(line)) + "\n" for line in lines).encode()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    with os.fdopen(handle, "r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.truncate(size if committed is None else min(size, committed))
        stream.seek(0, os.SEEK_END)
        stream.write(data)
        stream.flush()
        os.fdatasync(stream.fileno())
        return stream.tell()


def _finite(node: Any) -> Any:
    if isinstance(node, float) and (node != node or node in (float("inf"), float("-inf"))):
        return None
    return {name: _finite(value) for name, value in node.items()} if isinstance(node, dict) else node


def routes(ingest: Ingest) -> APIRouter:
    """Where runs report to."""
    router = APIRouter(tags=["reports"])

    @router.post("/api/records", status_code=202, summary="Report of a run that the queue has not started")
    def records(batch: Batch) -> Kept:
        return ingest.keep(batch.job, batch)

    return router
