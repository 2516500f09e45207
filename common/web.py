"""What the kit's web servers share: whose name a request gives, which site asks, how long it is, headers of answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Send

LOCAL = ("localhost", "127.0.0.1", "::1")
# No guessing of types, no page of others around ours or with a hold on it; each server adds its own content policy.
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def split_host(host: str) -> tuple[str, int | None]:
    """Name in lower case and port (None: not given) of ``name``, ``name:port``, ``[::1]:port``; ("", None) if neither.

    >>> split_host("[::1]:7860"), split_host("Box.lan")
    (('::1', 7860), ('box.lan', None))
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::([0-9]{1,5}))?", host)
    if match is None:
        return "", None
    return (match[1] or match[2]).lower(), int(match[3]) if match[3] else None


class HostNames:
    """The names under which a server is reached; a site that gives its own name our address (DNS rebinding) is none.

    Args:
        port: The server's port, which a name without one must come with.
        hosts: Names next to localhost: ``name`` (with the server's port) or ``name:port`` (of a proxy or a forwarded
            port, with that port).
    """

    def __init__(self, port: int | None = None, hosts: Iterable[str] = ()):
        self.port = port
        self.hosts = {split_host(host) for host in hosts}

    def __contains__(self, host: str) -> bool:
        name, port = split_host(host)
        if (name, port) in self.hosts or ((name, None) in self.hosts and port in (self.port, None)):
            return True
        # ssh -L may forward another port of this machine: a name that only this machine has cannot be rebound
        return name in LOCAL


def same_site(headers: Headers, host: str, is_link: bool = False) -> bool:
    """Whether a page of this server asks, or no page at all.

    Args:
        headers: Of the request.
        host: Its Host.
        is_link: The path may be led to by a link on another site.
    """
    navigates = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not (is_link and navigates):
        return False
    return all(split_host(urlsplit(origin).netloc) == split_host(host) for origin in headers.getlist("origin"))


def with_headers(send: Send, added: Mapping[str, str]) -> Send:
    """Sets headers, and takes away every header that lets other sites read the answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name in [name for name in headers if name.lower().startswith("access-control-")]:
                del headers[name]
            for name, value in added.items():
                headers[name] = value
        await send(message)

    return sending


def limited(receive: Receive, limit: int) -> Receive:
    """Ends a request whose body is longer than so many bytes, whatever length it gave."""
    read = 0

    async def receiving() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        return message if read <= limit else {"type": "http.disconnect"}

    return receiving
