"""The web server: the page in two languages, the poll, downloads, and a password when one is set."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs, quote

import gradio as gr
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from monitor.change_token import Asked, tokens
from monitor.exports import csv_lines, png
from monitor.guard import Guard
from monitor.i18n import LANGUAGES, Words
from monitor.page import TOKENS, build_page
from monitor.password import Password
from monitor.prometheus import CONTENT_TYPE, RunsCollector, exposition
from monitor.store import Monitor
from monitor.system import Sampler
from monitor.tabs import ASSETS, MAX_PANELS
from monitor.targets import Job, targets


class ReadAhead:
    """Begins to read a run when its page is asked for, while the browser is still busy with the page's scripts.

    Args:
        app: What is behind it.
        monitor: The log folder.
    """

    def __init__(self, app: ASGIApp, monitor: Monitor):
        self.app = app
        self.monitor = monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes every request on."""
        if scope["type"] == "http" and scope["path"] in (f"/{one}/" for one in LANGUAGES):
            asked = parse_qs(scope["query_string"].decode("latin-1")).get("run", [""])[0]
            threading.Thread(target=self._read, args=(asked,), daemon=True).start()
        await self.app(scope, receive, send)

    def _read(self, run: str) -> None:
        rows = self.monitor.rows()
        self.monitor.metrics(run if run in rows else next(iter(rows), None))


class Poll:
    """Answers `poll.js`, which every open page asks twice a second, ahead of FastAPI: its layers cost more than that.

    Args:
        app: What is behind it.
        monitor: The log folder.
        sampler: The machine.
    """

    def __init__(self, app: ASGIApp, monitor: Monitor, sampler: Sampler):
        self.app = app
        self.monitor = monitor
        self.sampler = sampler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers /news with a token for the open tab that changes when there is something new."""
        if scope["type"] != "http" or scope["path"] != "/news":
            await self.app(scope, receive, send)
            return
        asked = parse_qs(scope["query_string"].decode("latin-1"))
        tab, run = (asked.get(name, [""])[0] for name in ("tab", "run"))
        # in a thread: a disk that does not answer must not stop the page
        shown = Asked(self.monitor, self.sampler, run, asked.get("compared", []))
        names, changed = await run_in_threadpool(tokens, TOKENS, tab, shown)
        await JSONResponse({"names": names, "token": changed})(scope, receive, send)


def build_app(
    log_dir: Path,
    language: str = "en",
    refresh: float = 1.0,
    auth: str | None = None,
    port: int | None = None,
    allowed_hosts: Sequence[str] = (),
) -> FastAPI:
    """Builds the whole application.

    Args:
        log_dir: Folder with the runs; need not exist yet.
        language: Of the page that / leads to.
        refresh: Seconds between two polls of an open page.
        auth: "user:password", None for no password.
        port: The port that it listens on.
        allowed_hosts: Names (or name:port) next to localhost under which a browser may reach it.
    """
    monitor = Monitor(log_dir)
    app = FastAPI(title="Training monitor", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.monitor = monitor
    sampler = Sampler(monitor.root)
    sampler.start()
    _routes(app, monitor, language)
    _for_prometheus(app, monitor, sampler)
    for one in LANGUAGES:
        blocks = build_page(monitor, sampler, one, refresh)
        app = gr.mount_gradio_app(
            app,
            blocks,
            path=f"/{one}",
            css_paths=ASSETS / "page.css",
            head=_head(Words(one)),
            theme=_theme(),
            show_error=True,
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
        )
        blocks.run_history = False  # it would act with the owner's Hugging Face token for every local user
        # Gradio's queue, which no event of the page uses, looks for work 1,000 times a second: 2 percent of a core.
        blocks._queue.sleep_when_free = blocks._queue.progress_update_sleep_when_free = 0.25
    app.add_middleware(Poll, monitor=monitor, sampler=sampler)
    app.add_middleware(ReadAhead, monitor=monitor)
    if auth:
        app.add_middleware(Password, pair=auth)
    app.add_middleware(Guard, port=port, hosts=allowed_hosts)  # the outermost
    return app


def _routes(app: FastAPI, monitor: Monitor, language: str) -> None:
    @app.get("/")
    def root(request: Request) -> RedirectResponse:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{language}/{query}")

    @app.get("/favicon.ico")
    def icon() -> FileResponse:
        return FileResponse(ASSETS / "icon.svg", media_type="image/svg+xml")

    @app.get("/assets/plotly.min.js")
    def plotly() -> FileResponse:
        folder = Path(importlib.util.find_spec("plotly").submodule_search_locations[0])  # found, not imported
        headers = {"Cache-Control": "max-age=604800"}
        return FileResponse(folder / "package_data" / "plotly.min.js", media_type="text/javascript", headers=headers)

    @app.get("/csv")
    def csv(run: str, metric: Annotated[list[str], Query()] = ()) -> StreamingResponse:
        metrics = monitor.metrics(run, 60.0)
        if metrics is None:
            raise HTTPException(404, "no such run")
        if unknown := next((name for name in metric if not len(metrics.columns.series(name)[0])), None):
            raise HTTPException(404, f"the run has no metric {unknown[:200]!r}")
        return StreamingResponse(csv_lines(metrics, metric), media_type="text/csv", headers=_attachment(run, "csv"))

    @app.get("/png")
    def picture(run: str, metric: Annotated[list[str], Query()] = (), language: str = "en") -> Response:
        if len(metric) > MAX_PANELS:
            raise HTTPException(413, f"{len(metric)} metrics in one picture; at most {MAX_PANELS}")
        metrics = monitor.metrics(run, 60.0)
        drawn = png(metrics, run, metric, Words("zh" if language == "zh" else "en")) if metrics else None
        if drawn is None:
            raise HTTPException(404, "no such run, or it has no metrics")
        return Response(drawn, media_type="image/png", headers=_attachment(run, "png"))


def _for_prometheus(app: FastAPI, monitor: Monitor, sampler: Sampler) -> None:
    scrape = exposition(RunsCollector(monitor, sampler))

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(scrape(), media_type=CONTENT_TYPE)

    @app.get("/api/prometheus/targets")
    def discovery(job: Job) -> JSONResponse:
        return JSONResponse(targets(monitor, job))


def _attachment(run: str, ending: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(run.replace('/', '_'), safe='')}.{ending}"}


def _head(w: Words) -> str:
    lost = w("connection_lost").replace('"', "&quot;")
    # window.address: what the link asked for, before the poll writes the address anew
    ready = f"addEventListener('DOMContentLoaded', () => document.body.dataset.lost = \"{lost}\")"
    library = "<script>window.plotlyComes = new Promise((done) => { window.plotlyIsHere = done; });</script>"
    library += '<script async src="../assets/plotly.min.js" onload="plotlyIsHere()"></script>'
    icon = '<link rel="icon" href="../favicon.ico">'
    return f"<script>window.address = location.search; {ready}</script>{library}{icon}"


def _theme() -> gr.themes.Base:
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans SC", "PingFang SC", "Microsoft YaHei", "sans-serif"]
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="gray",
        spacing_size="sm",
        radius_size="md",
        text_size="md",
        font=fonts,
        font_mono=["ui-monospace", "SFMono-Regular", "Consolas", "monospace"],
    )
