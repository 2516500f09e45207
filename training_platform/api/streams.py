"""The messages of feed.py over Server-Sent Events and WebSockets.

A client that reads slowly is asked to wait by TCP: nothing is read for it meanwhile, so nothing piles up.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
import orjson
from fastapi import APIRouter, Depends, Header, Query, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from monitor.system import Sampler
from training_platform.api.errors import ApiError
from training_platform.api.feed import AS_DEFAULT, TYPES, Cursor, Feed, parse
from training_platform.api.views import Views
from training_platform.message import Message
from training_platform.queue.store import now

LOOK = 0.25  # seconds
PING = 15.0  # seconds without another message
RETRY = 2_000  # milliseconds after which a browser connects again
MAX_CLIENTS = 500
Text = Annotated[str | None, Query(max_length=200)]


class Clients:
    """How many are connected."""

    def __init__(self) -> None:
        self.count = 0

    def check(self) -> None:
        """Refuses one more; asked before an answer begins, as it cannot become an error later."""
        if self.count >= MAX_CLIENTS:
            raise ApiError(503, "busy", f"{MAX_CLIENTS} clients follow already")

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


async def messages(feed: Feed) -> AsyncIterator[Message]:
    """Everything that is new, as it comes, until nothing will come any more."""
    yield feed.hello()
    spoke = time.monotonic()
    while True:
        found, more, ended = await run_in_threadpool(feed.read)
        for message in found:
            yield message
        if ended:
            yield feed.message("end")
            return
        if found:
            spoke = time.monotonic()
        elif time.monotonic() - spoke > PING:
            yield feed.message("ping")
            spoke = time.monotonic()
        if not more:
            await anyio.sleep(LOOK)


async def all_events(views: Views, after: int) -> AsyncIterator[Message]:
    """What happens to all jobs, without end."""
    spoke = 0.0
    while True:
        for event in await run_in_threadpool(views.store.events, after):
            after, spoke = event["id"], time.monotonic()
            yield Message(str(Cursor(event=after)), event["type"], event["job"], event["time"], event["data"])
        if time.monotonic() - spoke > PING:
            spoke = time.monotonic()
            yield Message(str(Cursor(event=after)), "ping", "", now(), {})
        await anyio.sleep(LOOK)


def as_text(message: Message) -> str:
    """A message as JSON; numbers that JSON cannot hold are null."""
    return orjson.dumps(message).decode()


def wanted(text: str | None) -> list[str]:
    """The kinds of messages that `types=a,b` names.

    Raises:
        ApiError: 422 when there is another kind.
    """
    names = [name for name in (text or "").split(",") if name] or list(AS_DEFAULT)
    if unknown := [name for name in names if name not in TYPES]:
        raise ApiError(422, "invalid", f"types={unknown[0][:50]!r}: there are {', '.join(TYPES)}")
    return names


def http_routes(views: Views, sampler: Sampler, clients: Clients) -> APIRouter:
    """The streams of Server-Sent Events."""
    router = APIRouter(tags=["push"])

    def feed_of(
        uuid: str,
        after: Text = None,
        types: Text = None,
        raw: bool = False,
        last_event_id: Annotated[str | None, Header(max_length=200)] = None,
    ) -> Feed:
        """A client that connects again says itself where it was; that counts more than what the address says."""
        clients.check()
        return Feed(views, sampler, uuid, parse(last_event_id or after), wanted(types), raw)

    def place_of(after: Text = None, last_event_id: Annotated[str | None, Header(max_length=200)] = None) -> Cursor:
        clients.check()
        return parse(last_event_id or after)

    @router.get(
        "/api/jobs/{uuid}/events",
        response_class=EventSourceResponse,
        summary="Messages as they come (Server-Sent Events); after= or Last-Event-ID continues where it was",
    )
    async def events(feed: Feed = Depends(feed_of)) -> AsyncIterator[ServerSentEvent]:  # noqa: B008
        with clients:
            async for message in messages(feed):
                yield ServerSentEvent(raw_data=as_text(message), id=message.id, retry=RETRY)

    @router.get("/api/events", response_class=EventSourceResponse, summary="The states of all jobs as they change")
    async def every(place: Cursor = Depends(place_of)) -> AsyncIterator[ServerSentEvent]:  # noqa: B008
        with clients:
            async for message in all_events(views, place.event):
                yield ServerSentEvent(raw_data=as_text(message), id=message.id, retry=RETRY)

    return router


def socket_routes(views: Views, sampler: Sampler, clients: Clients) -> APIRouter:
    """The streams over WebSockets."""
    router = APIRouter(tags=["push"])

    @router.websocket("/api/jobs/{uuid}/ws")
    async def socket(websocket: WebSocket, uuid: str, after: str | None = None, types: str | None = None) -> None:
        offered = websocket.scope.get("subprotocols") or []
        await websocket.accept(next((name for name in offered if name.startswith("bearer.")), None))
        try:
            feed = await run_in_threadpool(Feed, views, sampler, uuid, parse(after), wanted(types))
        except ApiError as error:
            await websocket.close(4404 if error.status == 404 else 1008, error.message[:120])
            return
        with clients:
            await _send_all(websocket, feed)

    return router


async def _send_all(websocket: WebSocket, feed: Feed) -> None:
    """Sends until the end, or until the client goes."""
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            try:
                while True:
                    await websocket.receive()
                    if websocket.client_state.name == "DISCONNECTED":
                        break
            except (WebSocketDisconnect, RuntimeError):
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            async for message in messages(feed):
                await websocket.send_text(as_text(message))
            await websocket.close(1000)
        except WebSocketDisconnect:
            pass
        tasks.cancel_scope.cancel()
