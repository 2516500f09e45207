"""The application: routes, guard, and the queue that lives as long as it does."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.responses import FileResponse, HTMLResponse

from common import __version__
from common.files import ROOT
from monitor.store import Monitor
from monitor.system import Sampler
from training_platform.api import errors, ingest, jobs, operations, prometheus, runs, streams
from training_platform.api.errors import ApiError
from training_platform.api.feed import gpu_records
from training_platform.api.guard import Guard
from training_platform.api.tokens import Tokens
from training_platform.api.views import JobView, View, Views
from training_platform.queue import knobs
from training_platform.queue.scheduler import Scheduler
from training_platform.queue.slots import Slots, gpus_here
from training_platform.queue.store import Store

PAGE = Path(__file__).resolve().parents[1] / "page"
ASSETS = tuple(sorted(path.name for path in PAGE.iterdir()))  # names of requests are looked up, never joined
MAX_QUEUED = 1_000  # that /api/queue lists
HIDDEN = ".platform"  # folder of the outputs that the monitor passes over


@dataclass
class Options:
    """How a server is started.

    Args:
        outputs: Folder with the runs.
        kit: Folder with the algorithms' folders.
        state: Folder of the database; None: in the outputs. On a network file system give a local one.
        gpus: Names of the GPUs to give out; None: all that the driver shows.
        cpu_jobs: Jobs on the CPU at a time; None: 1 where there is no GPU, else 0.
        backfill: Whether a smaller job may pass one that waits.
        token: One that may write, beside those of the file.
        needs_token: Whether one is needed.
        port: That the server listens on.
        hosts: Names beside localhost under which it is reached.
        ray: Job server of a Ray cluster that jobs run on, ``http://HEAD:8265``; "": this machine.
    """

    outputs: Path
    kit: Path = ROOT
    state: Path | None = None
    gpus: tuple[str, ...] | None = None
    cpu_jobs: int | None = None
    backfill: bool = False
    token: str = ""
    needs_token: bool = False
    port: int | None = None
    hosts: Iterable[str] = field(default=())
    ray: str = ""

    @property
    def folder(self) -> Path:
        """Of the database and the locks."""
        return self.state or self.outputs / HIDDEN

    @property
    def slots(self) -> Slots:
        """What jobs run on."""
        gpus = gpus_here() if self.gpus is None else self.gpus
        return Slots(gpus, (0 if gpus else 1) if self.cpu_jobs is None else self.cpu_jobs)


class Health(View):
    """Whether the server and its queue work."""

    status: str
    problem: str = ""
    version: str


class SlotView(View):
    """A GPU, or a place for a job on the CPU; `held`: an evaluation or a process that is no job's has it."""

    slot: str
    state: str
    job: str | None = None
    holder: str | None = None


class QueueView(View):
    """Who has what, and who waits for it, the next first."""

    slots: list[SlotView]
    queued: list[JobView]
    counts: dict[str, int]


def build_app(options: Options) -> FastAPI:
    """Builds the application; its queue starts with its first request to live (lifespan).

    Raises:
        StoreInUseError: If another server has the outputs.
        ConnectionError: If no job server of Ray answers.
    """
    outputs = options.outputs.absolute()
    outputs.mkdir(parents=True, exist_ok=True)
    store = Store(options.folder)
    try:
        scheduler = _scheduler(options, store, outputs)
    except BaseException:
        store.close()
        raise
    monitor = Monitor(outputs)
    sampler = Sampler(outputs)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        sampler.start()
        threading.Thread(target=monitor.rows, daemon=True).start()
        yield
        scheduler.close()
        store.close()

    app = FastAPI(title="Training platform", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.scheduler, app.state.monitor, app.state.sampler = scheduler, monitor, sampler
    errors.install(app)
    views = Views(scheduler, monitor)
    handlers = jobs.Jobs(scheduler, views)
    _routes(app, scheduler, handlers, sampler, options.kit)
    strict = [Depends(errors.known_query)]
    app.include_router(jobs.routes(handlers), dependencies=strict)
    app.include_router(runs.routes(runs.Runs(handlers)), dependencies=strict)
    app.include_router(operations.routes(operations.Operations(handlers)), dependencies=strict)
    clients = streams.Clients()
    app.include_router(streams.http_routes(views, sampler, clients), dependencies=strict)
    app.include_router(streams.socket_routes(views, sampler, clients))
    app.include_router(ingest.routes(ingest.Ingest(scheduler)), dependencies=strict)
    app.include_router(prometheus.routes(scheduler, monitor, sampler, lambda: _gpu_states(scheduler)))
    tokens = Tokens(options.folder, options.token)
    app.add_middleware(Guard, tokens=tokens, needed=options.needs_token, port=options.port, hosts=options.hosts)
    return app


def _scheduler(options: Options, store: Store, outputs: Path) -> Scheduler:
    """The queue, with what its jobs run on.

    Raises:
        ConnectionError: If that is a Ray cluster, and it does not answer.
    """
    if not options.ray:
        return Scheduler(store, outputs, options.kit, options.slots, options.backfill)
    from training_platform.queue import ray_cluster, ray_jobs

    jobs = ray_jobs.RayJobs(ray_cluster.connect(options.ray), store.folder)
    jobs.look_first()
    alone = not any(machine.gpus for machine in jobs.machines())
    places = int(alone) if options.cpu_jobs is None else options.cpu_jobs
    slots = ray_cluster.RaySlots(jobs.machines, places)
    holders = ray_cluster.RayHolders(jobs.machines)
    return Scheduler(store, outputs, options.kit, slots, options.backfill, holders, backend=jobs)


def _routes(app: FastAPI, scheduler: Scheduler, handlers: jobs.Jobs, sampler: Sampler, kit: Path) -> None:
    @app.get("/api/health", tags=["server"], summary="Whether the server and its queue work")
    def health() -> Health:
        problem = scheduler.problem
        return Health(status="problem" if problem else "ok", problem=problem, version=__version__)

    @app.get("/api/version", tags=["server"], summary="Versions of the kit and of the API")
    def version() -> dict[str, str]:
        return {"kit": __version__, "api": "1"}

    @app.get("/api/queue", tags=["server"], summary="Who has what, and who waits for it")
    def queue() -> QueueView:
        return _queue(scheduler, handlers)

    @app.get("/api/gpus", tags=["server"], summary="Use, memory and temperature of each GPU")
    def gpus() -> list[dict[str, Any]]:
        moment = sampler.moments[-1] if sampler.moments else None
        return gpu_records(moment.gpus if moment else ())

    @app.get("/api/algorithms", tags=["server"], summary="What `algorithm` may be")
    def algorithms() -> list[str]:
        return list(knobs.algorithms(kit))

    @app.get("/api/algorithms/{name}/schema", tags=["server"], summary="The knobs of an algorithm as JSON Schema")
    def schema(name: str) -> dict[str, Any]:
        if name not in knobs.algorithms(kit):
            raise ApiError(404, "no_algorithm", f"{name[:100]!r}: there are {', '.join(knobs.algorithms(kit))}")
        return knobs.schema(kit, name)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/page/{name}", include_in_schema=False)
    def asset(name: str) -> FileResponse:
        if name not in ASSETS:
            raise ApiError(404, "not_found", f"{name[:100]!r}: is no part of the page")
        return FileResponse(PAGE / name)

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(_docs(app.openapi()))


def _slots(scheduler: Scheduler) -> list[SlotView]:
    store, slots = scheduler.store, scheduler.slots
    owner = {name: job.uuid for job in store.in_states(("starting", "running", "stopping")) for name in job.assigned}
    held = {**scheduler.holders.of([gpu for gpu in slots.gpus if gpu not in owner]), **scheduler.lent}
    shown = []
    for name in (*slots.gpus, *slots.names("cpu")):
        state = "job" if name in owner else "held" if name in held else "free"
        shown.append(SlotView(slot=name, state=state, job=owner.get(name), holder=held.get(name)))
    return shown


def _gpu_states(scheduler: Scheduler) -> list[str]:
    return [one.state for one in _slots(scheduler) if one.slot in scheduler.slots.gpus]


def _queue(scheduler: Scheduler, handlers: jobs.Jobs) -> QueueView:
    with scheduler.store.lock:
        waiting = list(islice(scheduler.store.in_order(), MAX_QUEUED))
    queued = [handlers.views.job(job, full=False) for job in waiting]
    return QueueView(slots=_slots(scheduler), queued=queued, counts=scheduler.store.counts())


def _docs(openapi: dict[str, Any]) -> str:
    """Every address on one page, without a script: nothing is loaded from elsewhere."""
    parts = []
    for path, methods in openapi["paths"].items():
        for method, about in methods.items():
            fields = [
                f"<li><code>{escape(one['name'])}</code> {escape(one.get('description', ''))}</li>"
                for one in about.get("parameters", ())
            ]
            body = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            name = next(
                (part["$ref"].rpartition("/")[2] for part in [body, *body.get("anyOf", ())] if "$ref" in part), ""
            )
            shown = openapi["components"]["schemas"].get(name, {}).get("properties", {})
            fields += [
                f"<li><code>{escape(one)}</code> {escape(str(what.get('description', '')))}</li>"
                for one, what in shown.items()
            ]
            head = f"<h3><code>{method.upper()} {escape(path)}</code></h3>"
            parts.append(f"{head}<p>{escape(about.get('summary', ''))}</p><ul>{''.join(fields)}</ul>")
    link = '<p>The same for programs: <a href="/openapi.json">/openapi.json</a></p>'
    title = escape(openapi["info"]["title"])
    return f'<!doctype html><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>{link}{"".join(parts)}'
