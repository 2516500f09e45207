"""The password: asked of every request, and few wrong ones a second."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

WRONG_AT_ONCE = 5  # wrong passwords of an address; then one a second
MAX_KEPT = 10_000  # addresses


class Password:
    """Asks every request for a name and a password (HTTP Basic), whatever it is for.

    Args:
        app: What is behind it.
        pair: "user:password".
        clock: Seconds from anywhere.
    """

    def __init__(self, app: ASGIApp, pair: str, clock: Callable[[], float] = time.monotonic):
        self.app = app
        self._expected = b"Basic " + base64.b64encode(pair.encode())
        self._clock = clock
        self._wrong: dict[str, tuple[float, float]] = {}  # address: how many, at what time; one less each second

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers 401; 429 to an address that guesses, whatever it sends."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        given = dict(scope.get("headers") or []).get(b"authorization")
        address = (scope.get("client") or ("",))[0]
        if given is not None and self._count(address) > WRONG_AT_ONCE - 1:
            await Response("too many wrong passwords; wait a second", 429, {"Retry-After": "1"})(scope, receive, send)
        elif given is not None and secrets.compare_digest(given, self._expected):
            await self.app(scope, receive, send)
        else:
            if given is not None:  # a browser asks without one first
                self._add(address)
            headers = {"WWW-Authenticate": 'Basic realm="Training monitor", charset="UTF-8"'}
            await Response("password needed", 401, headers)(scope, receive, send)

    def _count(self, address: str) -> float:
        count, then = self._wrong.get(address, (0.0, 0.0))
        return max(0.0, count - (self._clock() - then))

    def _add(self, address: str) -> None:
        count = self._count(address)
        self._wrong.pop(address, None)  # so that the latest comes last
        self._wrong[address] = (count + 1, self._clock())
        if len(self._wrong) > MAX_KEPT:
            del self._wrong[next(iter(self._wrong))]
