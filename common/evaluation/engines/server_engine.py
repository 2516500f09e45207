"""Answers from any OpenAI-compatible server: vLLM's, SGLang's, a company's gateway."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from common.evaluation.engines.engine import Answer, Ask, Deliver, Meter
from common.evaluation.settings import Backend, EvaluationError, Settings

RETRIES = 5  # of a request; the openai package waits longer each time, and as long as the server says
TIMEOUT_S = 600.0  # of a request
NO_KEY = "none"  # the openai package wants one
LOST = 20  # requests that fail without one that succeeds, after which the server counts as gone


class ServerEngine:
    """Chat completions; the server applies its own chat template.

    Args:
        backend: URL, model name, requests at once.
        settings: Sampling.
        stop: Stop texts.
    """

    name = "server"

    def __init__(self, backend: Backend, settings: Settings, stop: Sequence[str]):
        import openai

        self.backend, self.settings, self.stop, self.meter = backend, settings, list(stop), Meter()
        if settings.template != "auto":
            raise EvaluationError(f"--template {settings.template}: a server has its own; leave --template out")
        url = backend.server.rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise EvaluationError(f"--server {backend.server}: must begin with http:// or https://")
        url = url if url.endswith("/v1") else url + "/v1"
        key = os.environ.get("OPENAI_API_KEY", NO_KEY)
        _say_where_the_key_goes(url, key)
        self.loop = asyncio.new_event_loop()
        # A redirect would carry the prompts to a machine that nobody named.
        http = openai.DefaultAsyncHttpxClient(follow_redirects=False)
        self.client = openai.AsyncOpenAI(
            base_url=url, api_key=key, max_retries=RETRIES, timeout=TIMEOUT_S, http_client=http
        )
        self.model = backend.server_model
        self.version = self.model = self._model(url)
        self.failed_in_a_row = 0

    def _model(self, url: str) -> str:
        """The model's name there; also sees that the server answers."""
        import openai

        try:
            listed = self.loop.run_until_complete(self.client.with_options(max_retries=1, timeout=20).models.list())
            names = [model.id for model in listed.data]
        except openai.AuthenticationError as error:
            raise EvaluationError(f"--server {url}: refuses the key; set OPENAI_API_KEY") from error
        except openai.APIConnectionError as error:
            raise EvaluationError(f"--server {url}: does not answer ({error.__cause__ or error})") from error
        except openai.APIStatusError as error:
            if self.model:  # some gateways do not list their models
                return self.model
            raise EvaluationError(
                f"--server {url}: does not list its models (status {error.status_code}); give --server_model NAME"
            ) from error
        if self.model and names and self.model not in names:
            raise EvaluationError(f"--server_model {self.model}: {url} has {', '.join(names[:5])}")
        if not self.model and not names:
            raise EvaluationError(f"--server {url}: lists no model; give --server_model NAME")
        return self.model or names[0]

    def _options(self, ask: Ask) -> dict[str, Any]:
        settings = self.settings
        options: dict[str, Any] = {
            "model": self.model,
            "messages": ask.messages,
            "max_tokens": ask.max_tokens,
            "temperature": 0.0 if settings.greedy else settings.temperature,
            "top_p": settings.top_p,
            "seed": ask.seed,
        }
        extra: dict[str, Any] = {}
        if settings.top_k > 0:
            extra["top_k"] = settings.top_k
        if settings.thinking != "auto":
            extra["chat_template_kwargs"] = {"enable_thinking": settings.thinking == "on"}
        if self.stop:
            options["stop"] = self.stop
        return {**options, "extra_body": extra} if extra else options

    def answer(self, asks: Sequence[Ask], deliver: Deliver) -> None:
        """Answer all, ``concurrency`` requests at once."""
        self.meter.start()
        self.loop.run_until_complete(self._all(asks, deliver))

    async def _all(self, asks: Sequence[Ask], deliver: Deliver) -> None:
        waiting = iter(asks)

        async def work() -> None:
            for ask in waiting:  # shared by all workers
                deliver(await self._one(ask))

        await asyncio.gather(*(work() for _ in range(min(self.backend.concurrency, len(asks)))))

    async def _one(self, ask: Ask) -> Answer:
        import openai

        try:
            reply = await self.client.chat.completions.create(**self._options(ask))
        except openai.AuthenticationError as error:
            raise EvaluationError("--server: refuses the key; set OPENAI_API_KEY") from error
        except openai.OpenAIError as error:
            self.failed_in_a_row += 1
            if self.failed_in_a_row >= LOST:
                raise EvaluationError(
                    f"--server {self.client.base_url}: the last {LOST} requests failed: {self._said(error)}. Finished "
                    "answers are kept; the same command resumes when the server is back"
                ) from error
            return Answer(ask.row, ask.sample, finish="error", error=f"{type(error).__name__}: {self._said(error)}")
        self.failed_in_a_row = 0
        choice = reply.choices[0]
        tokens = reply.usage.completion_tokens if reply.usage else 0
        self.meter.tokens += tokens
        prompt_tokens = reply.usage.prompt_tokens if reply.usage else 0
        finish = "length" if choice.finish_reason == "length" else "stop"
        return Answer(ask.row, ask.sample, choice.message.content or "", tokens, prompt_tokens, finish)

    def _said(self, error: Exception) -> str:
        """An error without the key, which a server may send back; errors are written to files."""
        key = self.client.api_key
        return str(error) if key in ("", NO_KEY) else str(error).replace(key, "***")

    def stream(self, ask: Ask, show: Callable[[str], None], stopped: Any) -> Answer:
        """Answer one, showing the text as it comes.

        Raises:
            EvaluationError: If the server gives none.
        """
        self.meter.start()
        import openai

        try:
            return self.loop.run_until_complete(self._stream(ask, show, stopped))
        except openai.OpenAIError as error:
            raise EvaluationError(f"--server {self.client.base_url}: {self._said(error)}") from None

    async def _stream(self, ask: Ask, show: Callable[[str], None], stopped: Any) -> Answer:
        pieces: list[str] = []
        finish, tokens = "stop", 0
        usage = {"stream_options": {"include_usage": True}}
        async with await self.client.chat.completions.create(**self._options(ask), stream=True, **usage) as stream:
            async for part in stream:
                if part.usage:
                    tokens = part.usage.completion_tokens
                for choice in part.choices[:1]:
                    if choice.delta.content:
                        pieces.append(choice.delta.content)
                        show(choice.delta.content)
                    finish = choice.finish_reason or finish
                if stopped.is_set():
                    break
        finish = "length" if finish == "length" else "stop"
        return Answer(ask.row, ask.sample, "".join(pieces), tokens or len(pieces), 0, finish)

    def close(self) -> None:
        """Close its connections."""
        self.loop.run_until_complete(self.client.close())
        self.loop.close()


def _say_where_the_key_goes(url: str, key: str) -> None:
    """The key of one service is easily sent to another, and over http:// everybody on the way reads it."""
    if key == NO_KEY:
        return
    host = urlsplit(url).hostname or ""
    print(f"OPENAI_API_KEY is sent to {host}", file=sys.stderr)
    if url.startswith("http://") and host not in ("localhost", "127.0.0.1", "::1"):
        print(f"warning: over http:// the key to {host} can be read on the way; use https://", file=sys.stderr)
