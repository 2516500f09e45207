"""The routes: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``, ``/health``."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from common.evaluation.engines.templates import Prompter
from common.evaluation.settings import EvaluationError, Settings
from common.serving.guard import Guard
from common.serving.replies import Reply, error_body
from common.serving.wanted import Refused, Wanted, read_wanted
from common.serving.worker import Generation, Piece, Worker

GONE = 499  # nobody reads this answer


class Served:
    """A model with what makes its prompts.

    Args:
        worker: Answers.
        settings: Template and thinking.
        context: Longest sequence, tokens; None when unknown.
        max_tokens: Of an answer to a request that does not say.
    """

    def __init__(self, worker: Worker, settings: Settings, context: int | None, max_tokens: int):
        self.worker, self.settings, self.context, self.max_tokens = worker, settings, context, max_tokens

    def prompt_ids(self, wanted: Wanted) -> list[list[int]]:
        """Token ids of each prompt, a chat's through the model's own template as in test.sh.

        Raises:
            Refused: If the template refuses it, or it does not fit.
        """
        if wanted.is_chat:
            thinking = {None: self.settings.thinking, True: "on", False: "off"}[wanted.thinking]
            settings = replace(self.settings, thinking=thinking)
            try:
                prompter = Prompter(self.worker.tokenizer, settings, self.worker.name)
                found = prompter.encode([prompter.render(messages) for messages in wanted.prompts])
            except EvaluationError as error:
                raise Refused(str(error), "messages") from error
        else:
            tokenizer = self.worker.tokenizer
            found = [tokenizer(one)["input_ids"] if isinstance(one, str) else one for one in wanted.prompts]
        for ids in found:
            self._check(ids, wanted)
        return found

    def _check(self, ids: list[int], wanted: Wanted) -> None:
        name = "messages" if wanted.is_chat else "prompt"
        if not ids:
            raise Refused(f"{name}: has no tokens", name)
        largest = self.worker.model.config.get_text_config().vocab_size
        if max(ids) >= largest:
            raise Refused(f"{name}: token {max(ids)} is beyond the vocabulary of {largest}", name)
        needed = len(ids) + (wanted.max_tokens or 1)
        if self.context and needed > self.context:
            words = f"{name}: {len(ids)} tokens and {wanted.max_tokens or 1} of the answer are more than the model's "
            raise Refused(words + f"context of {self.context}", name, code="context_length_exceeded")

    def generations(self, wanted: Wanted, found: list[list[int]], queue: asyncio.Queue) -> list[Generation]:
        """An answer to make for each choice; pieces come into the queue with the choice's number."""
        loop = asyncio.get_running_loop()
        stop = wanted.stop
        if wanted.is_chat:
            stop = (*stop, *Prompter(self.worker.tokenizer, self.settings, self.worker.name).stop)
        made = []
        for ids in found:
            room = wanted.max_tokens or min(self.max_tokens, (self.context or 1 << 30) - len(ids))
            for _ in range(wanted.n):
                index = len(made)
                emit = partial(_tell, loop, queue, index)
                params = wanted.params(index)
                one = Generation(
                    ids, params, room, self.worker.stop_ids, top=wanted.top or 0, stop=stop, decode=self.worker.decode,
                    emit=emit, stream=wanted.stream,
                )  # fmt: skip
                made.append(one)
        return made


def _tell(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue, index: int, piece: Piece) -> None:
    with contextlib.suppress(RuntimeError):  # the server has ended
        loop.call_soon_threadsafe(queue.put_nowait, (index, piece))


class Routes:
    """What the server answers.

    Args:
        served: Models by name.
    """

    def __init__(self, served: dict[str, Served]):
        self.served = served

    def app(self, key: str, port: int, hosts: Iterable[str] = ()) -> ASGIApp:
        """The application behind its guard."""
        routes = [
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", partial(self.complete, is_chat=True), methods=["POST"]),
            Route("/v1/completions", partial(self.complete, is_chat=False), methods=["POST"]),
        ]
        handlers = {Refused: _refused, HTTPException: _not_found}
        return Guard(Starlette(routes=routes, exception_handlers=handlers), key, port, hosts)

    async def health(self, request: Request) -> Response:
        """Whether every model still answers."""
        workers = [one.worker for one in self.served.values()]
        models = [
            {"name": one.name, "alive": one.alive, "running": one.running, "waiting": len(one.waiting)}
            for one in workers
        ]
        alive = all(one.alive for one in workers)
        return JSONResponse({"status": "ok" if alive else "failed", "models": models}, 200 if alive else 503)

    async def models(self, request: Request) -> Response:
        """The names."""
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "local"} for name in self.served]
        return JSONResponse({"object": "list", "data": data})

    async def complete(self, request: Request, is_chat: bool) -> Response:
        """Answer."""
        try:
            body = json.loads(await request.body())
        except ClientDisconnect as error:
            raise Refused("the request was not sent to its end, or is too long", status=413) from error
        except (ValueError, RecursionError) as error:
            raise Refused(f"the body is not JSON: {error}") from error
        wanted = read_wanted(body, is_chat)
        served = self._find(wanted)
        found = served.prompt_ids(wanted)
        queue: asyncio.Queue = asyncio.Queue()
        made = served.generations(wanted, found, queue)
        reply = Reply(wanted, served.worker.tokenizer.decode)
        prompt_tokens = sum(map(len, found))
        try:
            for one in made:
                served.worker.submit(one)
        except Refused:
            _abort(made)  # those before it are on the list already
            raise
        if wanted.stream:
            events = _events(reply, made, queue, prompt_tokens)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        return await _whole(request, reply, made, queue, prompt_tokens)

    def _find(self, wanted: Wanted) -> Served:
        if wanted.model not in self.served:
            names = ", ".join(self.served)
            raise Refused(f"model {wanted.model!r} is not here; {names} is", "model", 404, "model_not_found")
        return self.served[wanted.model]


async def _whole(
    request: Request, reply: Reply, made: list[Generation], queue: asyncio.Queue, prompt_tokens: int
) -> Response:
    """Wait for all choices, or for the client to leave."""
    collecting = asyncio.ensure_future(_collect(made, queue))
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((collecting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            return Response(status_code=GONE)
        return JSONResponse(reply.whole(collecting.result(), prompt_tokens))
    finally:
        _abort(made)
        for task in (collecting, leaving):
            task.cancel()


async def _collect(made: list[Generation], queue: asyncio.Queue) -> list[Piece]:
    answers: dict[int, Piece] = {}
    while len(answers) < len(made):
        index, piece = await queue.get()
        if piece.error:
            raise Refused(piece.error, status=500)
        answers[index] = piece
    return [answers[index] for index in range(len(made))]


async def _events(reply: Reply, made: list[Generation], queue: asyncio.Queue, prompt_tokens: int) -> AsyncIterator[str]:
    """Server-sent events; what is left is given up when the client leaves."""
    try:
        if reply.wanted.is_chat:
            for index in range(len(made)):
                yield _event(reply.first(index))
        left = len(made)
        while left:
            index, piece = await queue.get()
            if piece.error:
                yield _event(error_body(Refused(piece.error, status=500)))
                return
            yield _event(reply.piece(index, piece))
            left -= piece.finish is not None
        if reply.wanted.usage:
            yield _event(reply.last(prompt_tokens, sum(len(one.token_ids) for one in made)))
        yield "data: [DONE]\n\n"
    finally:
        _abort(made)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _abort(made: list[Generation]) -> None:
    for one in made:
        one.aborted.set()


async def _refused(request: Request, error: Refused) -> Response:
    return JSONResponse(error_body(error), error.status)


async def _not_found(request: Request, error: HTTPException) -> Response:
    words = f"{request.method} {request.url.path:.100}: there is no such route; see /v1/models, /v1/chat/completions"
    return JSONResponse(error_body(Refused(words, status=error.status_code)), error.status_code)
