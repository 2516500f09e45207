"""Who may ask the platform anything: the Host, the page that asks, the token; and how long a request may be.

Whoever may write here starts programs, so a web site that a person visits must not reach it through the browser: not by
a form or a script (Origin, Sec-Fetch-Site), not by giving its own name this server's address (Host).
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.web import SAFE_HEADERS, HostNames, same_site, with_headers
from training_platform.api.errors import answer
from training_platform.api.tokens import Tokens

MAX_BODY = 10 << 20  # bytes
MAX_QUERY = 1 << 14  # bytes
OPEN = ("/api/health",)  # without a token: whether it lives, nothing else
LINKED = ("/", "/docs")  # where another site may lead by a link
READS = ("GET", "HEAD")
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {**SAFE_HEADERS, "Content-Security-Policy": POLICY, "Cache-Control": "no-store"}


class Guard:
    """Refuses ahead of everything else.

    Args:
        app: What is behind it.
        tokens: Who is known.
        needed: Whether a token is needed.
        port: The server's.
        hosts: Names next to localhost under which it is reached.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, needed: bool, port: int | None = None, hosts: Iterable[str] = ()):
        self.app = app
        self.tokens = tokens
        self.needed = needed
        self.names = HostNames(port, hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers why not."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if scope["path"].startswith("/api/"):
            scope = {**scope, "path": scope["path"].rstrip("/")}  # a redirect would lose a POST of curl's
        headers = Headers(scope=scope)
        refused = self._refusal(scope, headers)
        if refused is None and scope["type"] == "http":
            read = await _whole_body(receive)
            if read is None:
                refused = (413, "too_large", f"a request may have {MAX_BODY >> 20} MiB")
            else:
                await self.app(scope, read, with_headers(send, HEADERS))
                return
        if refused is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4401 if refused[0] in (401, 403) else 1008})
        else:
            reply = answer(*refused)
            if refused[0] == 401:
                reply.headers["WWW-Authenticate"] = 'Basic realm="Training platform", charset="UTF-8"'
            await reply(scope, receive, with_headers(send, HEADERS))

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        """Status, code and message; None for a request that may pass."""
        method, path = scope.get("method", "GET"), scope["path"]
        host = headers.getlist("host")
        if len(host) != 1 or host[0] not in self.names:
            return (
                421,
                "wrong_host",
                f"this server is not {host[:1]!s:.200}; if it is, start it with --allowed-host NAME",
            )
        if not same_site(headers, host[0], is_link=method == "GET" and path in LINKED):
            return 403, "other_site", "a request from another web site"
        if len(scope.get("query_string", b"")) > MAX_QUERY:
            return 414, "too_large", f"what follows the ? may have {MAX_QUERY} bytes"
        if self.needed and path not in OPEN:
            role = self.tokens.role(headers)
            if role is None:
                return 401, "no_token", "a token is needed: Authorization: Bearer TOKEN (token add NAME makes one)"
            if role != "write" and method not in READS:
                return 403, "read_only", "this token may read only"
        return None


async def _whole_body(receive: Receive) -> Receive | None:
    """Reads a request's body and returns what gives it again; None when it is too long."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            return None
        if not message.get("more_body"):
            break
    whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again
