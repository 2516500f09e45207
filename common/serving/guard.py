"""Who may ask: without a key only this machine's own names and no other web site's pages; with one, who has it."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from common.serving.replies import error_body
from common.serving.wanted import Refused
from common.web import SAFE_HEADERS, HostNames, limited, same_site, with_headers

MAX_BODY = 32 << 20  # bytes of a request
OPEN = ("/health",)


class Guard:
    """Refuses ahead of everything else.

    Args:
        app: What is behind it.
        key: Of the bearer; "" when none is needed.
        port: The server's.
        hosts: Names next to localhost under which it is reached.
    """

    def __init__(self, app: ASGIApp, key: str, port: int, hosts: Iterable[str] = ()):
        self.app, self.key = app, key
        self.names = HostNames(port, hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = self._refusal(scope["path"], Headers(scope=scope))
        if refused is not None:
            reply = JSONResponse(error_body(refused), refused.status)
            await reply(scope, receive, with_headers(send, SAFE_HEADERS))
            return
        await self.app(scope, limited(receive, MAX_BODY), with_headers(send, SAFE_HEADERS))

    def _refusal(self, path: str, headers: Headers) -> Refused | None:
        """Why a request may not pass; None for one that may."""
        host = headers.getlist("host")
        if not self.key and (len(host) != 1 or host[0] not in self.names):
            words = f"this server is not {host[:1]!s:.200}; if it is, start it with --allowed_host NAME"
            return Refused(words, status=421, code="wrong_host")
        if not same_site(headers, host[0] if host else ""):
            return Refused("a request from another web site", status=403, code="other_site")
        given = headers.get("authorization", "")
        if self.key and path not in OPEN and not hmac.compare_digest(given.encode(), f"Bearer {self.key}".encode()):
            return Refused("the API key is wrong or missing", status=401, code="invalid_api_key")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY:
            return Refused(f"a request may have {MAX_BODY >> 20} MiB", status=413, code="too_large")
        return None
