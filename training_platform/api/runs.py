"""What a run has produced: numbers, checkpoints, log, samples, health. Read with the monitor's readers."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from common.checkpoints.selected import selected_step
from common.files import open_regular, read_regular
from common.metrics.names import BY_NAME
from common.run_dir import LOG_FILE, read_record
from monitor.checkpoints import saved_in
from monitor.health import Finding, longest_answer
from monitor.health import find as find_health
from monitor.i18n import Words
from monitor.metrics_collector import RunMetrics
from monitor.plain import plain
from monitor.samples import Sample, choose, read_step, steps_of
from training_platform.api.errors import ApiError
from training_platform.api.find import Found
from training_platform.api.jobs import Jobs
from training_platform.api.rows import AllRows, ReadRows, RunRows, Source, Wanted, as_csv, as_json, unknown
from training_platform.api.views import View, eval_results
from training_platform.queue import local
from training_platform.queue.knobs import did_you_mean

READ_SECONDS = 60.0
MAX_LOG = 1 << 20  # bytes of one answer
MAX_CHECKPOINTS = 4 << 20  # bytes of checkpoints.jsonl


Choice = Callable[[list[Sample]], list[Sample]]


class CheckpointView(View):
    """A checkpoint; `problems` is empty when it is whole, `best`: its validation score is the highest."""

    step: int
    path: str
    eval_results: dict[str, float | None] | None = None
    bytes: int | None = None
    complete: bool | None = None
    problems: list[str] = []
    best: bool = False
    selected: bool = False
    created_at: str | None = None


class LogView(View):
    """A part of a log; `next_offset` is where the next one begins."""

    text: str
    next_offset: int
    size: int


class SampleView(View):
    """A prompt, its answer and the score."""

    step: int
    prompt: str
    answer: str
    truth: str
    score: float | None
    parts: dict[str, object]


class HealthView(View):
    """Something that is wrong, or was: from `first_step` to `last_step`; `now` while it lasts."""

    metric: str
    first_step: int
    last_step: int
    now: bool
    value: float | None
    message: str


class Runs:
    """What the routes read from.

    Args:
        jobs: Looks ids up.
    """

    def __init__(self, jobs: Jobs):
        self.jobs, self.monitor = jobs, jobs.views.monitor
        self._rows = AllRows()

    def metrics(self, uuid: str) -> RunMetrics | None:
        """All numbers of a run, None before it has any.

        Raises:
            ApiError: 503 while a long file is still being read: a part of the numbers would look like all of them.
        """
        found = self.jobs.found(uuid)
        read = self.monitor.metrics(found.run) if found.row else None
        end = time.monotonic() + READ_SECONDS
        while read is not None and not read.poll(READ_SECONDS):
            if time.monotonic() > end:
                raise ApiError(503, "reading", f"{uuid}: {read.progress():.0%} of its numbers are read; ask again")
            time.sleep(0.02)  # another thread is at it
        return read

    def rows(self, uuid: str) -> RunRows | ReadRows:
        """All numbers of a run as rows; nothing is read yet where they are in metrics files.

        Raises:
            ApiError: 404; 503 as of `metrics`, where they are not.
        """
        folder = self.folder(self.jobs.found(uuid))
        return (folder and self._rows.of(folder)) or ReadRows(self.metrics(uuid))

    def folder(self, found: Found) -> Path | None:
        """The run directory, None before there is one."""
        return self.monitor.file(found.run, "") if found.row else None

    def checkpoints(self, uuid: str) -> list[CheckpointView]:
        """Checkpoints by step; of a run that reports from outside those that it told of."""
        found = self.jobs.found(uuid)
        folder = self.folder(found)
        if folder is None:
            return []
        told = _told(folder / "checkpoints.jsonl")
        there = [one for one in saved_in(folder) if one.step is not None]
        chosen = _selected(folder)
        numbers = self.rows(uuid).of({one.step for one in there}) if there else {}
        scores = {step: eval_results(data) for step, data in numbers.items()}
        saved = [
            CheckpointView(
                step=one.step,
                path=str(one.path),
                eval_results=scores.get(one.step) or None,
                bytes=one.size,
                complete=not one.problems,
                problems=[plain(text) for text in one.problems],
                selected=one.step == chosen,
                created_at=datetime.fromtimestamp(one.written, timezone.utc).isoformat(timespec="seconds"),
            )
            for one in there
        ]
        ordered = sorted([*saved, *told], key=lambda one: one.step)
        means = {id(one): np.mean(list(one.eval_results.values())) for one in ordered if one.eval_results}
        if means:
            best = max(means, key=lambda key: -np.inf if np.isnan(means[key]) else means[key])
            ordered = [one.model_copy(update={"best": id(one) == best}) for one in ordered]
        return ordered

    def log(self, uuid: str, offset: int, limit: int, source: str) -> LogView:
        """Bytes of a log as text, cut between two letters."""
        found = self.jobs.found(uuid)
        launch = self.jobs.scheduler.folder(found.job) / local.LOG if found.job else None
        path = self.monitor.file(found.run, LOG_FILE) if source == "train" else launch
        if path is None or not path.is_file():
            return LogView(text="", next_offset=max(0, offset), size=0)
        return read_log(path, offset, limit)

    def samples(self, uuid: str, source: str, step: int | None, choice: Choice) -> list[SampleView]:
        """Answers of a step, the newest one's without a step, as chosen."""
        folder = self.monitor.file(self.jobs.found(uuid).run, source)
        there = steps_of(folder) if folder else []
        if not there:
            return []
        if step is not None and step not in there:
            raise ApiError(404, "no_samples", f"step={step}: there are samples of steps {there[0]} to {there[-1]}")
        found, _ = read_step(folder, there[-1] if step is None else step)
        return [SampleView(**{name: getattr(one, name) for name in SampleView.model_fields}) for one in choice(found)]

    def health(self, uuid: str) -> list[HealthView]:
        """What is wrong, or was."""
        found = self.jobs.found(uuid)
        read = self.metrics(uuid)
        if read is None:
            return []
        longest = longest_answer(found.row.knobs)
        with read.lock:
            wrong = find_health(read.columns, longest, self.monitor.file(found.run, "rollouts"))
        return [_health(one) for one in wrong]


def read_log(path: Path, offset: int, limit: int) -> LogView:
    """A part of a file.

    Args:
        path: The file.
        offset: Where to begin, bytes; negative: so many before the end.
        limit: Bytes at most.
    """
    with open_regular(path) as stream:
        size = stream.seek(0, 2)
        start = max(0, size + offset) if offset < 0 else offset
        stream.seek(min(start, size))
        data = stream.read(limit) or b""
    while offset < 0 and data and data[0] & 0xC0 == 0x80:  # the middle of a letter
        data, start = data[1:], start + 1
    cut = len(data)
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0xC0:  # where the last letter begins
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            cut = len(data) - back if length > back and len(data) > back else len(data)
            break
        if byte < 0x80:
            break
    text = data[:cut].decode("utf-8", "replace")
    return LogView(text=text, next_offset=min(start, size) + cut, size=size)


def _each(names: list[str]) -> list[str]:
    """``names=a&names=b`` and ``names=a,b`` are the same."""
    return [name for text in names for name in text.split(",") if name]


def _known_names(rows: RunRows | ReadRows, names: list[str]) -> None:
    """Refuses a name that neither the kit nor the run has: its rows would have a step and nothing else.

    Raises:
        ApiError: 422 with the nearest name.
    """
    missing, seen = unknown(rows.records(), names)
    if missing:
        said = "the run has no such metric" + did_you_mean(missing[0], [*BY_NAME, *seen])
        raise ApiError(422, "invalid", f"names={missing[0][:200]}: {said}", [("names", said)])


def _selected(folder: Path) -> int | None:
    try:
        return selected_step(folder)
    except ValueError:  # damaged; whoever takes it is told
        return None


def _told(path: Path) -> list[CheckpointView]:
    """Checkpoints that a run outside has told of; the last word on a step counts."""
    try:
        lines = read_regular(path, MAX_CHECKPOINTS).split(b"\n")[:-1]
    except OSError:
        return []
    records = [record for line in lines if (record := read_record(line))]
    return list({r["step"]: CheckpointView(step=r["step"], **r["data"]) for r in records}.values())


def _health(one: Finding) -> HealthView:
    message = one.advice or Words("en")(f"health_{one.name}", f"{one.value:.2g}")
    return HealthView(
        metric=one.name, first_step=one.first, last_step=one.last, now=one.now, value=one.value, message=message
    )


def routes(runs: Runs) -> APIRouter:
    """The addresses under /api/jobs/{uuid}."""
    router = APIRouter(prefix="/api/jobs/{uuid}", tags=["runs"])

    @router.get("/metrics", summary="The numbers as a JSON array, a row a step", response_model=list[dict])
    def metrics(
        uuid: str,
        names: Annotated[list[str], Query(max_length=200)] = [],  # noqa: B006  FastAPI copies it
        after_step: int | None = None,
        last: Annotated[int | None, Query(ge=1, le=10**7)] = None,
        source: Source = "train",
        raw: bool = False,
    ) -> StreamingResponse:
        found, wanted = runs.rows(uuid), _each(names)
        _known_names(found, wanted)
        rows = found.rows(Wanted(source, wanted, raw), after_step, last)
        return StreamingResponse(as_json(rows), media_type="application/json")

    @router.get("/metrics.csv", summary="The numbers as CSV, verl's names", response_class=StreamingResponse)
    def csv(uuid: str, names: Annotated[list[str], Query(max_length=200)] = []) -> StreamingResponse:  # noqa: B006
        found, wanted = runs.rows(uuid), _each(names)
        _known_names(found, wanted)
        return StreamingResponse(as_csv(found.records, wanted), media_type="text/csv")

    @router.get("/checkpoints", summary="Checkpoints, oldest first")
    def checkpoints(uuid: str) -> list[CheckpointView]:
        return runs.checkpoints(uuid)

    @router.get("/log", summary="A part of the log by its place in bytes")
    def log(
        uuid: str,
        offset: Annotated[int, Query(ge=-(2**62), le=2**62)] = 0,
        limit: Annotated[int, Query(ge=4, le=MAX_LOG)] = 65536,
        source: Literal["train", "launch"] = "train",
    ) -> LogView:
        return runs.log(uuid, offset, limit, source)

    @router.get("/samples", summary="What the model answered in a step")
    def samples(
        uuid: str,
        step: Annotated[int | None, Query(ge=0, le=2**62)] = None,
        source: Literal["rollouts", "validation"] = "rollouts",
        sort: Literal["file", "high", "low"] = "file",
        q: Annotated[str, Query(max_length=400)] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    ) -> list[SampleView]:
        return runs.samples(uuid, source, step, lambda found: choose(found, q, sort)[:limit])

    @router.get("/health", summary="What is going wrong, since when, and which knob to turn")
    def health(uuid: str) -> list[HealthView]:
        return runs.health(uuid)

    return router
