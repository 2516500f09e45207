"""A judge behind an OpenAI-compatible route that fails as real ones do; for tests and by hand.

``python -m tests.api_server --port 8000 --fail 0.2`` serves until it is stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import Counter

from aiohttp import web

FAILURES = ("hang", "429", "500", "half_json", "html", "eleven", "gone")
KEY = "sk-test-secret"


class Judge:
    """Scores an answer by a rule (10 when it holds ``####``, else 0) and fails now and then.

    Args:
        share: Probability of each kind of failure, by kind.
        delay: Seconds of a call.
        seed: Of the failures.
        key: Expected in the header; empty for none.
    """

    def __init__(self, share: dict[str, float] | None = None, delay: float = 0.0, seed: int = 1, key: str = ""):
        self.share = share or {}
        self.delay = delay
        self.key = key
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.asked: list[dict] = []
        self.most_at_once = self.now = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        return app

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            return await self._answer(request)
        finally:
            self.now -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            self.seen["401"] += 1
            return web.json_response({"error": {"message": "Incorrect API key"}}, status=401)
        body = await request.json()
        self.asked.append(body)
        await asyncio.sleep(self.delay)
        draw, kind = self.random.random(), "ok"
        for name, share in self.share.items():
            draw -= share
            if draw < 0:
                kind = name
                break
        self.seen[kind] += 1
        if kind != "ok":
            return await self._fail(kind, request)
        answer = body["messages"][-1]["content"]
        score = 10 if "####" in answer else 0
        return self._reply(f"Let me think.\nScore: {score}")

    async def _fail(self, kind: str, request: web.Request) -> web.StreamResponse:
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind == "429":
            return web.Response(status=429, text="slow down", headers={"Retry-After": "0.01"})
        if kind == "500":
            return web.Response(status=500, text="<html>oops</html>")
        if kind == "half_json":
            return web.Response(text='{"choices": [{"message": {"content": "Score', content_type="application/json")
        if kind == "html":
            return web.Response(text="<!doctype html><h1>Gateway</h1>", content_type="text/html")
        if kind == "eleven":
            return self._reply("Score: 11")
        request.transport.close()  # gone in the middle of the exchange
        return web.Response()

    def _reply(self, text: str) -> web.Response:
        message = {"choices": [{"message": {"role": "assistant", "content": text}}]}
        usage = {"usage": {"prompt_tokens": 100, "completion_tokens": 10}}
        return web.Response(text=json.dumps({**message, **usage}), content_type="application/json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds of a call")
    parser.add_argument("--fail", type=float, default=0.0, help="probability of each kind of failure")
    arguments = parser.parse_args()
    judge = Judge({kind: arguments.fail for kind in FAILURES}, arguments.delay)
    web.run_app(judge.app(), host="127.0.0.1", port=arguments.port, print=None)


if __name__ == "__main__":
    main()
