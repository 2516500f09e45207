"""Who may ask: named tokens with a role, kept as hashes in a file that a running server reads again when it changes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import secrets
from pathlib import Path

from starlette.datastructures import Headers

from common.files import write_atomically
from common.small_files import read_json
from training_platform.queue.store import now

FILE = "tokens.json"
ROLES = ("read", "write")
NAME = re.compile(r"[\w.@-]{1,60}")


class Tokens:
    """The tokens of one server.

    Args:
        folder: Where the file is.
        extra: A token with the right to write next to those of the file: ``PLATFORM_TOKEN`` of the server.
    """

    def __init__(self, folder: Path, extra: str = ""):
        self.path = folder / FILE
        self._extra = _hash(extra) if extra else ""
        self._stamp: tuple[int, int] | None = None
        self._kept: dict[str, dict[str, str]] = {}

    def role(self, headers: Headers) -> str | None:
        """The role of who asks: of a bearer token, an X-API-Key, or a password of HTTP Basic; None: nobody known."""
        given = _given(headers)
        if not given:
            return None
        hashed = _hash(given)
        if self._extra and secrets.compare_digest(hashed, self._extra):
            return "write"
        found = None
        for entry in self.all().values():  # all of them, so that the time does not tell which
            if secrets.compare_digest(hashed, entry["sha256"]):
                found = entry["role"]
        return found

    def all(self) -> dict[str, dict[str, str]]:
        """Name -> role, sha256, created_at."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._kept, self._stamp = {}, None
            return self._kept
        stamp = (found.st_mtime_ns, found.st_ino)
        if stamp != self._stamp:
            self._kept, self._stamp = read_json(self.path), stamp
        return self._kept

    def add(self, name: str, role: str) -> str:
        """Makes a token and returns it: it is shown once and cannot be read again.

        Raises:
            ValueError: If the name is taken or unusable, or the role unknown.
        """
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r}: a name has up to 60 letters, digits, '.', '_', '-' or '@'")
        if role not in ROLES:
            raise ValueError(f"--role {role}: {' or '.join(ROLES)}")
        kept = self.all()
        if name in kept:
            raise ValueError(f"{name} has a token; remove it first (token remove {name})")
        token = f"tp_{secrets.token_urlsafe(32)}"
        self._write({**kept, name: {"role": role, "sha256": _hash(token), "created_at": now()}})
        return token

    def remove(self, name: str) -> None:
        """Takes a token away; a running server refuses it from then on.

        Raises:
            ValueError: If there is none of that name.
        """
        kept = self.all()
        if name not in kept:
            raise ValueError(f"{name} has no token; there are: {', '.join(kept) or 'none'}")
        self._write({one: entry for one, entry in kept.items() if one != name})

    def _write(self, entries: dict[str, dict[str, str]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self.path, json.dumps(entries, indent=2) + "\n")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _given(headers: Headers) -> str:
    """The token of a request; WebSockets of browsers, which cannot set headers, offer it as a subprotocol."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    offered = [part.strip() for part in headers.get("sec-websocket-protocol", "").split(",")]
    return headers.get("x-api-key") or next((p[7:] for p in offered if p.startswith("bearer.")), "")
