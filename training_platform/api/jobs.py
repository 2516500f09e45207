"""Jobs: created, checked, started, stopped, taken up again, deleted, listed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import uuid as ids
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from common.checkpoints.layout import checkpoints_of
from monitor.runs import Row
from training_platform.api.errors import ApiError
from training_platform.api.find import Found, find, same_name
from training_platform.api.views import JobView, Views
from training_platform.queue import knobs, local
from training_platform.queue.request import JobRequest, Prose, Value, Word
from training_platform.queue.scheduler import Scheduler, free_name
from training_platform.queue.slots import Slots
from training_platform.queue.store import ACTIVE, ENDED, Job, Wanted, now

CHECK_SECONDS = 300.0  # the preflight imports verl
CHECKS_AT_ONCE = 2
State = Literal["created", "queued", "starting", "running", "stopping", "finished", "failed", "stopped"]


class Check(BaseModel):
    """What the preflight finds: rows of knob, value, verdict, text and fix; the plan of memory and time."""

    ok: bool
    algorithm: str
    errors: list[str]
    warnings: list[str]
    rows: list[dict[str, Any]]
    plan: dict[str, Any] | None


class StopRequest(BaseModel):
    """How a job is stopped; `force` kills it when it has not ended after 30 s."""

    model_config = ConfigDict(extra="forbid")
    force: bool = False


class RestartRequest(BaseModel):
    """Where a job resumes: its newest checkpoint, the start, or a step; with other knobs."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    start_at: Literal["latest", "scratch"] | int = Field("latest", alias="from")
    knobs: dict[Word, Value] = Field(default={}, max_length=200)


class Patch(BaseModel):
    """What of a job may still be changed; the name and the priority before it starts."""

    model_config = ConfigDict(extra="forbid")
    description: Prose | None = None
    tags: list[Word] | None = Field(None, max_length=50)
    priority: int | None = Field(None, strict=True, ge=-1000, le=1000)
    name: Word | None = None


class Jobs:
    """What the routes do.

    Args:
        scheduler: The queue.
        views: How jobs are shown.
    """

    def __init__(self, scheduler: Scheduler, views: Views):
        self.scheduler, self.views, self.store = scheduler, views, scheduler.store
        self.checks = threading.BoundedSemaphore(CHECKS_AT_ONCE)

    def create(self, request: JobRequest, key: str | None, parent: str | None = None) -> tuple[Job, bool]:
        """Adds a job; returns it, and whether it is new."""
        scheduler = self.scheduler
        made = self._translated(request)
        needed = slots_of(request, made, scheduler.slots)
        if problem := scheduler.slots.problem(needed, request.nnodes):
            raise ApiError(422, "not_enough_gpus", f"num_gpus: {problem}", [("num_gpus", problem)])
        content = {
            "asked": request.model_dump(mode="json", exclude_unset=True),
            "folder": made.algorithm,
            "environment": made.environment,
            "overrides": made.arguments,
            "warnings": made.warnings,
            "max_restarts": request.max_restarts,
            "nnodes": request.nnodes,
        }
        with self.store.transaction():
            if key and (known := self.store.with_key(key)):
                return known, False
            run = free_name(self.store, scheduler.outputs, slug(request.name or f"{request.algorithm}-{stamp()}"))
            values = {"run": run, "slots": needed, "priority": request.priority, "key": key, "parent": parent}
            job = self.store.add(str(ids.uuid4()), request=content, **values)
            if request.start:
                scheduler.enqueue(job)
        return self.store.get(job.uuid), True

    def _translated(self, request: JobRequest) -> knobs.Translation:
        scheduler = self.scheduler
        return knobs.translate(request, scheduler.kit, scheduler.outputs, scheduler.backend.name == "ray")

    def found(self, uuid: str) -> Found:
        """A job or a run.

        Raises:
            ApiError: 404 when there is none.
        """
        return find(self.store, self.views.monitor, uuid)

    def job(self, uuid: str) -> Job:
        """A job of the database.

        Raises:
            ApiError: 404, or 409 for a run that somebody else has started.
        """
        found = self.found(uuid)
        if found.job is None:
            raise ApiError(409, "not_a_job", f"{uuid}: this run was started by hand or reports from outside")
        return found.job

    def listed(self, limit: int, after: int | None, wanted: Wanted) -> tuple[list[JobView], int | None]:
        """A page of the list: jobs, then runs that no job has started.

        Args:
            limit: How many at most.
            after: Where the page before has ended: number of a job, or below 0 the count of runs that it has shown.
            wanted: Only such.

        Returns:
            The page, and `after` of the next one; None when this is the last.
        """
        jobs = self.store.listed(limit, after, wanted) if after is None or after > 0 else []
        shown = [self.views.job(job, full=False) for job in jobs]
        if len(jobs) == limit:
            return shown, jobs[-1].number
        begin = max(0, -(after or 0))
        runs = self._runs(wanted)
        shown += [self.views.run(row, full=False) for row in runs[begin : begin + limit - len(shown)]]
        end = begin + len(shown) - len(jobs)
        return shown, -end if end < len(runs) else None

    def _runs(self, wanted: Wanted) -> list[Row]:
        """Runs that no job has started, the newest first."""
        if wanted.owner:
            return []
        own, text = self.store.runs(), wanted.text.casefold()
        return [
            row
            for row in self.views.monitor.rows().values()
            if row.kind == "run" and "/" not in row.id and row.id not in own
            if wanted.state in (None, row.state) and wanted.algorithm in ("", row.algorithm)
            if text in f"{row.id} {row.run.get('job_uuid') or ''}".casefold()
        ]

    def start(self, uuid: str) -> Job:
        """Queues a job; one that waits or runs stays as it is."""
        with self.store.transaction():
            job = self.job(uuid)
            if job.state in ("queued", *ACTIVE):
                return job
            if job.state == "finished":
                raise wrong_state(job, "restart it with more steps, or from scratch")
            self.scheduler.enqueue(job)
        return self.store.get(job.uuid)

    def stop(self, uuid: str, force: bool) -> Job:
        """Stops a job."""
        with self.store.transaction():
            job = self.job(uuid)
            if job.state not in ("queued", *ACTIVE):
                raise wrong_state(job, "only a job that waits or runs can be stopped")
            self.scheduler.stop(job, force)
        return self.store.get(job.uuid)

    def restart(self, uuid: str, asked: RestartRequest) -> Job:
        """The same job from its newest checkpoint, or a new one from the start or from a step."""
        job = self.job(uuid)
        if job.state not in ENDED:
            raise wrong_state(job, "stop it first")
        request = JobRequest(**job.request["asked"])
        request = request.model_copy(update={"knobs": {**request.knobs, **asked.knobs}, "start": True})
        if asked.start_at == "latest":
            made = self._translated(request)
            with self.store.transaction():
                content = {**job.request, "environment": made.environment, "asked": {**job.request["asked"]}}
                content["asked"]["knobs"] = request.knobs
                self.store.change(job.uuid, request=content)
                self.scheduler.enqueue(self.store.get(job.uuid))
            return self.store.get(job.uuid)
        if asked.start_at == "scratch":
            changed = {"resume_from": None}
        else:
            steps = {one.step: one.path for one in checkpoints_of(self.scheduler.outputs / job.run)}
            if asked.start_at not in steps:
                there = ", ".join(map(str, steps)) or "none"
                raise ApiError(404, "no_checkpoint", f"from: {asked.start_at}: there are checkpoints of steps {there}")
            changed = {"resume_from": str(steps[asked.start_at])}
        new, _ = self.create(request.model_copy(update=changed), None, parent=job.uuid)
        return new

    def patch(self, uuid: str, patch: Patch) -> Job:
        """Changes what is given."""
        given = patch.model_dump(exclude_unset=True, exclude_none=True)
        with self.store.transaction():
            job = self.job(uuid)
            if job.state not in ("created", "queued") and given.keys() & {"name", "priority"}:
                raise wrong_state(job, "name and priority can be changed before it starts")
            values: dict[str, Any] = {}
            if "priority" in given:
                values["priority"] = given["priority"]
            if "name" in given and (wanted := slug(given["name"])) != job.run:
                values["run"] = free_name(self.store, self.scheduler.outputs, wanted)
            kept = {name: value for name, value in given.items() if name in ("description", "tags")}
            values["request"] = {**job.request, "asked": {**job.request["asked"], **kept}}
            self.store.change(job.uuid, **values)
        self.scheduler.wake()
        return self.store.get(job.uuid)

    def delete(self, uuid: str, files: bool) -> None:
        """Forgets a job; with `files` the run directory goes too."""
        found = self.found(uuid)
        state = found.job.state if found.job else found.row.state
        if state in ("queued", *ACTIVE, "live"):
            raise ApiError(409, "wrong_state", f"{uuid} is {state}; stop it first")
        if not found.job and not files:
            raise ApiError(409, "not_a_job", f"{uuid}: this run has no job to delete; files=true deletes its folder")
        run = found.job.run if found.job else found.row.id
        if found.job:
            self.store.delete(found.job.uuid)
            shutil.rmtree(self.scheduler.folder(found.job), ignore_errors=True)
        if files:
            _remove(self.scheduler.outputs, run)

    def check(self, request: JobRequest) -> Check:
        """Runs the preflight as train.sh would, on this machine; nothing is stored."""
        made = self._translated(request)
        if request.nnodes > 1:
            text = f"nnodes={request.nnodes}: its machines are compared and checked when it starts, on the cluster"
            raise ApiError(409, "not_here", text)
        script = self.scheduler.kit / made.algorithm / "train.sh"
        added = {"OUTPUTS_DIR": str(self.scheduler.outputs)}
        environment = local.environment(self.scheduler.base, script, made.environment, added)
        command = [sys.executable, "-m", "common.preflight", made.algorithm, "--json", "--", *made.arguments]
        if not self.checks.acquire(timeout=CHECK_SECONDS):
            raise ApiError(503, "busy", "other checks are under way; try again")
        try:
            done = subprocess.run(
                command, cwd=self.scheduler.kit, env=environment, capture_output=True, text=True, timeout=CHECK_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise ApiError(504, "too_slow", f"the preflight took longer than {CHECK_SECONDS:.0f} s") from None
        finally:
            self.checks.release()
        return _check_of(done.stdout, done.stderr, made)


def _check_of(stdout: str, stderr: str, made: knobs.Translation) -> Check:
    try:
        found = json.loads(stdout)
        rows, plan = found["rows"], found["plan"]
    except (ValueError, KeyError, TypeError):
        said = stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise ApiError(500, "preflight", f"the preflight did not answer: {said[0][:500]}") from None
    told = {
        verdict: [
            f"{row['what']}={row['value']}: {row['text']}".removeprefix("=: ")
            for row in rows
            if row["verdict"] == verdict
        ]
        for verdict in ("error", "warning")
    }
    warnings = [*made.warnings, *told["warning"]]
    return Check(
        ok=found["ok"], algorithm=made.algorithm, errors=told["error"], warnings=warnings, rows=rows, plan=plan
    )


def slots_of(request: JobRequest, made: knobs.Translation, slots: Slots) -> dict[str, int]:
    """What a job takes: its GPUs, and those that only serve a reward model or only answer."""
    environment = made.environment
    count = environment.get("N_GPUS", "auto")
    asked = int(count) if count.isdecimal() else request.num_gpus
    needed = slots.needed(asked, environment.get("DEVICE"), request.nnodes)
    separate = {"REWARD_MODEL_GPUS": ("REWARD", "model"), "ROLLOUT_GPUS": ("TRAINER_MODE", "separate")}
    for knob, (switch, value) in separate.items():
        own = environment.get(knob, "auto")
        if "gpu" in needed and count.isdecimal() and own.isdecimal() and environment.get(switch) == value:
            needed["gpu"] += int(own)
    return needed


def slug(name: str) -> str:
    """A name as a folder may have it."""
    text = re.sub(r"[^\w.-]+|\.{2,}", "-", name).strip("-.")[:90]
    return text if re.match(r"\w", text) else f"job-{text}".rstrip("-")


def stamp() -> str:
    """Month to second, for names."""
    return re.sub(r"\D", "", now())[4:14]


def wrong_state(job: Job, fix: str) -> ApiError:
    """The answer to what a job's state does not allow."""
    return ApiError(409, "wrong_state", f"job {job.uuid} is {job.state}; {fix}")


def _remove(outputs: Path, run: str) -> None:
    """Removes a run directory: a folder in the outputs itself, not a link."""
    path = outputs / run
    if not same_name(run) or path.is_symlink() or not path.is_dir():
        raise ApiError(409, "no_files", f"{run} is not a folder of the outputs")
    aside = outputs / f".deleted-{ids.uuid4().hex}"
    path.rename(aside)  # gone at once for everybody, whatever its size
    threading.Thread(target=shutil.rmtree, args=(aside,), kwargs={"ignore_errors": True}).start()


def routes(jobs: Jobs) -> APIRouter:
    """The addresses under /api/jobs."""
    router = APIRouter(prefix="/api/jobs", tags=["jobs"])
    _looks(router, jobs)
    _changes(router, jobs)
    _actions(router, jobs)
    return router


def _looks(router: APIRouter, jobs: Jobs) -> None:
    @router.get("", summary="Jobs, then runs that were started by hand, each the newest first")
    def listed(
        response: Response,
        state: State | None = None,
        q: Annotated[str, Query(max_length=200)] = "",
        algorithm: Annotated[str, Query(max_length=100)] = "",
        owner: Annotated[str, Query(max_length=100)] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: Annotated[int | None, Query(ge=-(2**62), le=2**62, description="X-Next of the page before")] = None,
    ) -> list[JobView]:
        shown, rest = jobs.listed(limit, after, Wanted(state, algorithm, owner, q))
        if rest is not None:
            response.headers["X-Next"] = str(rest)
        return shown

    @router.get("/{uuid}", summary="A job, or a run by its name")
    def one(uuid: str) -> JobView:
        found = jobs.found(uuid)
        return jobs.views.job(found.job) if found.job else jobs.views.run(found.row)


def _changes(router: APIRouter, jobs: Jobs) -> None:
    view = jobs.views.job

    @router.post("", status_code=201, summary="Create a job")
    def create(
        request: JobRequest,
        response: Response,
        key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)] = None,
    ) -> JobView:
        job, new = jobs.create(request, key or None)  # an empty header is none
        response.status_code = 201 if new else 200
        response.headers["Location"] = f"/api/jobs/{job.uuid}"
        return view(job)

    @router.post("/check", summary="The preflight's findings and the memory plan; nothing is stored")
    def check(request: JobRequest) -> Check:
        return jobs.check(request)

    @router.patch("/{uuid}", summary="Change description, tags, priority or name")
    def patch(uuid: str, changes: Patch) -> JobView:
        return view(jobs.patch(uuid, changes))

    @router.delete("/{uuid}", status_code=204, summary="Forget a job; files=true removes its run directory")
    def delete(uuid: str, files: bool = False) -> Response:
        jobs.delete(uuid, files)
        return Response(status_code=204)


def _actions(router: APIRouter, jobs: Jobs) -> None:
    view = jobs.views.job

    @router.post("/{uuid}/start", status_code=202, summary="Queue a job")
    def start(uuid: str) -> JobView:
        return view(jobs.start(uuid))

    @router.post("/{uuid}/resume", status_code=202, summary="Queue a stopped or failed job; it continues where it was")
    def resume(uuid: str) -> JobView:
        return view(jobs.start(uuid))

    @router.post("/{uuid}/stop", status_code=202, summary="Stop a job; a run leaves a checkpoint")
    def stop(uuid: str, asked: StopRequest | None = None) -> JobView:
        return view(jobs.stop(uuid, bool(asked and asked.force)))

    @router.post("/{uuid}/restart", status_code=202, summary="Resume from the newest checkpoint, a step or the start")
    def restart(uuid: str, asked: RestartRequest | None = None) -> JobView:
        return view(jobs.restart(uuid, asked or RestartRequest()))
