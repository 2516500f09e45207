"""What may be asked of the monitor, and by whom: an allow-list of routes, the Host, the page that asks, and headers.

Gradio brings many routes that this page never uses: one fetches any public address and serves it as the monitor's own
page, one takes files of any size. A web site that a person visits can send requests to the monitor too, or give its own
name the monitor's address (DNS rebinding) and read the answers. So nothing passes that the page does not need.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from common.web import SAFE_HEADERS, HostNames, limited, same_site, with_headers
from monitor.i18n import LANGUAGES

_PAGES = "|".join(LANGUAGES)
_NAME = r"[A-Za-z0-9_-]{1,64}"
_FILE = r"[A-Za-z0-9_.@-]{1,200}"
_READ = re.compile(  # GET and HEAD; as a browser with all tabs open, and gradio_client, ask for them
    r"/|/news|/csv|/png|/metrics|/api/prometheus/targets|/favicon\.ico|/assets/plotly\.min\.js"
    rf"|/(?:{_PAGES})/?"
    rf"|/(?:{_PAGES})/(?:config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)"
    rf"|/(?:{_PAGES})/(?:assets|static|svelte)/(?:{_FILE}/){{0,6}}{_FILE}"
    rf"|/(?:{_PAGES})/gradio_api/(?:info|app_id|startup-events|theme\.css|queue/data)/?"
    rf"|/(?:{_PAGES})/gradio_api/(?:heartbeat/{_NAME}|call/{_NAME}/{_NAME})"
)
_SEND = re.compile(  # POST
    rf"/(?:{_PAGES})/gradio_api/(?:(?:run|api|call|call/v2)/{_NAME}|queue/join|reset|cancel)/?"
)
MAX_QUERY = 1 << 15  # bytes; 60 metrics with long names are a few thousand
MAX_BODY = 1 << 20  # bytes of a request; what the page sends is a few hundred
# Gradio's page holds its own scripts and styles, and the charts' templates are compiled in the browser.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {**SAFE_HEADERS, "Content-Security-Policy": POLICY}


class Guard:
    """Refuses what the page does not need, ahead of everything else.

    Args:
        app: What is behind it.
        port: The monitor's port, which the Host of a request must name.
        hosts: Names next to localhost under which the monitor is reached: ``name`` (with its own port) or
            ``name:port`` (of a proxy or a forwarded port, with that port).
    """

    def __init__(self, app: ASGIApp, port: int | None = None, hosts: Iterable[str] = ()):
        self.app = app
        self.names = HostNames(port, hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page has no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        refused = self._refusal(scope["method"], scope["path"], scope["query_string"], Headers(scope=scope))
        if refused:
            status, reason = refused
            await PlainTextResponse(f"{reason}\n", status)(scope, receive, with_headers(send, HEADERS))
            return
        await self.app(scope, limited(receive, MAX_BODY), with_headers(send, HEADERS))

    def _refusal(self, method: str, path: str, query: bytes, headers: Headers) -> tuple[int, str] | None:
        """Status and reason, None for a request that may pass."""
        host = headers.getlist("host")
        if len(host) != 1 or host[0] not in self.names:
            return (
                421,
                f"the monitor does not go by {host[:1]!s:.200}; if it is right, start it with --allowed-host NAME",
            )
        if not same_site(headers, host[0], is_link=method == "GET" and path in _LINKED):
            return 403, "a request from another web site"
        routes = {"GET": _READ, "HEAD": _READ, "POST": _SEND}.get(method)
        if routes is None:
            return 405, f"{method[:20]} is not used"
        if not routes.fullmatch(path) or ".." in path:
            return 404, "not a part of the monitor"
        if len(query) > MAX_QUERY:
            return 414, f"what follows the ? may have {MAX_QUERY} bytes"
        length = headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,7}", length) or int(length) > MAX_BODY:
            return 413, f"a request may have {MAX_BODY} bytes"
        return None


_LINKED = ("/", *(f"/{language}{end}" for language in LANGUAGES for end in ("", "/")))
