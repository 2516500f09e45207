"""The settings of an API reward, read from YAML and checked once, before the first call."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

import regex

from common.small_files import read_yaml

KINDS = ("judge", "service")
ON_FAILURE = ("stop", "default")
STRUCTURED = ("auto", "on", "off")
SHORTEST_SECRET = 4  # characters; shorter header values, as "1", are not secrets and occur in every text
RESERVED = ("score", "reward")  # verl's own keys in a reward's result


@dataclass(frozen=True)
class Criterion:
    """One score in a reply.

    Args:
        name: Becomes a separate curve, ``reward/<name>/mean``.
        low: Score that counts 0.
        high: Score that counts 1.
        weight: Share in the total; the weights need not add up to 1.
        pattern: Of a judge that is not asked for JSON or a line ``name: score``: a regular expression whose first
            group begins the score. All its matches outside of quotations have to agree.
        path: Of a service: where the score is in the JSON, e.g. ``results.0.score``.
    """

    name: str
    low: float
    high: float
    weight: float = 1.0
    pattern: str = ""
    path: str = ""


@dataclass(frozen=True)
class Settings:
    """What ``api_reward_config.yaml`` holds; the comments there say what each is for."""

    kind: str
    url: str = field(repr=False)  # may hold a key out of the environment
    criteria: tuple[Criterion, ...]
    model: str = ""
    prompt: str = ""
    system: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    structured: str = "auto"
    request: Any = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    api_key_env: str = ""
    concurrency: int = 32
    timeout_s: float = 60.0
    attempts: int = 5
    backoff_s: float = 1.0
    longest_wait_s: float = 60.0
    requests_per_minute: float = 0
    tokens_per_minute: float = 0
    cache: str = ""
    on_failure: str = "stop"
    default_score: float = 0.0
    max_failed_share: float = 0.1
    price_in: float = 0.0
    price_out: float = 0.0
    url_secrets: tuple[str, ...] = field(default=(), repr=False)  # values of $NAME in the URL behind the host

    @property
    def key(self) -> str:
        """The API key from the environment; empty when none is needed. Never printed or stored."""
        return os.environ.get(self.api_key_env, "").strip() if self.api_key_env else ""

    @property
    def shown_url(self) -> str:
        """The endpoint without its query and what came from the environment, which may be keys."""
        return self.redact(redacted_url(self.url))

    @property
    def asks_for_json(self) -> bool:
        """Whether the judge has to write a JSON object (``response_format``), its criteria having no pattern."""
        held = self.structured != "off" and "response_format" not in self.options
        return self.kind == "judge" and held and not any(one.pattern for one in self.criteria)

    def redact(self, text: str) -> str:
        """A text of the endpoint or about it, without the key, without the values of headers and of the URL's query."""
        secrets = [self.key, *self.headers.values(), *self.url_secrets]
        secrets += [value for _, value in parse_qsl(urlsplit(self.url).query)]
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            for form in {secret, json.dumps(secret)[1:-1], quote(secret, safe=""), quote_plus(secret)}:
                if len(form) >= SHORTEST_SECRET:
                    text = text.replace(form, "***")
        return text


def redacted_url(url: str) -> str:
    """A URL without query, user and password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    query = "?***" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


_NUMBERS = {
    "concurrency": (1, 4096), "timeout_s": (0.01, 3600), "attempts": (1, 100), "backoff_s": (0, 600),
    "longest_wait_s": (0, 3600), "requests_per_minute": (0, 1e9), "tokens_per_minute": (0, 1e12),
    "default_score": (0, 1), "max_failed_share": (0, 1), "price_in": (0, 1e6), "price_out": (0, 1e6),
}  # fmt: skip
_WHOLE = ("concurrency", "attempts")


def read_settings(path: str | Path, on_failure: str | None = None) -> Settings:
    """Read and check a settings file.

    Args:
        path: YAML file.
        on_failure: ``stop`` or ``default``, instead of what the file says.

    Raises:
        ValueError: With file, field, value and what to write instead.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"API_REWARD_CONFIG={path}: no such file")
    try:
        read = read_yaml(path)
    except ValueError as error:
        raise ValueError(f"API_REWARD_CONFIG={error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"API_REWARD_CONFIG={path}: expected `name: value` lines")
    if on_failure:
        read["on_failure"] = on_failure
    try:
        return make_settings(read, path.parent)
    except ValueError as error:
        raise ValueError(f"API_REWARD_CONFIG={path}: {error}") from error


def make_settings(read: dict[str, Any], folder: Path) -> Settings:
    """Check the fields of a settings file; relative paths are meant from its folder."""
    known = {entry.name for entry in fields(Settings)} - {"url_secrets"}
    unknown = sorted(set(read) - known)
    if unknown:
        raise ValueError(f"{unknown[0]}: no such setting; there are {', '.join(sorted(known))}")
    given = {name: value for name, value in read.items() if value is not None}
    for name in ("kind", "url", "criteria"):
        if not given.get(name):
            raise ValueError(f"{name}: is missing")
    _one_of(given, "kind", KINDS)
    _one_of(given, "on_failure", ON_FAILURE)
    given["structured"] = {True: "on", False: "off"}.get(given.get("structured"), given.get("structured", "auto"))
    _one_of(given, "structured", STRUCTURED)
    for name, (low, high) in _NUMBERS.items():
        if name in given:
            given[name] = _number(name, given[name], low, high)
    given["url"], given["url_secrets"] = _url(given["url"])
    given["criteria"] = _criteria(given["criteria"], given["kind"])
    needed = "prompt" if given["kind"] == "judge" else "request"
    if not given.get(needed):
        raise ValueError(f"{needed}: a {given['kind']} needs it")
    if "{answer}" not in str(given[needed]):
        raise ValueError(f"{needed}: has no {{answer}}, so every answer would get the same score")
    if given["kind"] == "judge" and not given.get("model"):
        raise ValueError("model: is missing; it is the name that the server knows the judge by")
    if given.get("cache"):
        given["cache"] = str((folder / os.path.expanduser(given["cache"])).resolve())
    if (given.get("options") or {}).get("stream"):
        raise ValueError("options.stream: replies are read whole; leave it out")
    given["headers"] = {str(name): str(value) for name, value in (given.get("headers") or {}).items()}
    for name in given["headers"]:
        if name.lower() in ("authorization", "x-api-key", "api-key"):
            raise ValueError(f"headers.{name}: keys come from the environment only; name the variable in api_key_env")
    return Settings(**given)


def _one_of(given: dict[str, Any], name: str, choices: tuple[str, ...]) -> None:
    if name in given and given[name] not in choices:
        raise ValueError(f"{name}={given[name]!r}: must be {' or '.join(choices)}")


def _number(name: str, value: Any, low: float, high: float) -> float | int:
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    if not number or not low <= value <= high or (name in _WHOLE and value != int(value)):
        kind = "a whole number" if name in _WHOLE else "a number"
        raise ValueError(f"{name}={value!r}: must be {kind} from {low:g} to {high:g}")
    return int(value) if name in _WHOLE else float(value)


def _url(text: Any) -> tuple[str, tuple[str, ...]]:
    """The endpoint with ``$NAME`` from the environment filled in, and the values that follow the host."""
    url = os.path.expandvars(str(text))
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(
            "url: is not an address; must be http://… or https://… with a host and a port up to 65535"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"url={redacted_url(url)!r}: must be http://… or https://…")
    if parts.username or parts.password:
        raise ValueError("url: holds a user name or password; name a variable with the key in api_key_env instead")
    names = re.findall(r"\$\{?(\w+)", str(text))
    found = [os.environ.get(name, "") for name in names]
    return url, tuple(value for value in found if value and value not in f"{parts.scheme}://{parts.netloc}")


def _criteria(read: Any, kind: str) -> tuple[Criterion, ...]:
    if not isinstance(read, dict):
        raise ValueError("criteria: expected a block of `name: {range: [0, 10], …}` lines")
    return tuple(_criterion(str(name), entry, kind) for name, entry in read.items())


def _criterion(name: str, entry: Any, kind: str) -> Criterion:
    label = f"criteria.{name}"
    if not re.fullmatch(r"[A-Za-z]\w*", name) or name in RESERVED or name.startswith("api_"):
        raise ValueError(f"{label}: use a word other than {', '.join(RESERVED)} and api_…")
    if not isinstance(entry, dict) or set(entry) - {"range", "weight", "pattern", "path"}:
        raise ValueError(f"{label}: takes range, weight, and pattern (judge) or path (service)")
    if kind == "service" and not isinstance(entry.get("path"), str):
        raise ValueError(f"{label}.path: is missing")
    if kind == "judge" and "path" in entry:
        raise ValueError(f"{label}.path: is for a service; a judge says `{name}: <number>`, or give a pattern")
    if kind == "judge" and entry.get("pattern"):
        try:
            groups = regex.compile(entry["pattern"]).groups
        except (regex.error, TypeError) as error:
            raise ValueError(f"{label}.pattern={entry['pattern']!r}: not a regular expression: {error}") from error
        if groups < 1:
            raise ValueError(f"{label}.pattern={entry['pattern']!r}: put the score in brackets, e.g. 'Score: (\\d+)'")
    span = entry.get("range", [0, 1])
    if not isinstance(span, list) or len(span) != 2 or not all(isinstance(end, (int, float)) for end in span):
        raise ValueError(f"{label}.range={span!r}: must be two numbers, e.g. [0, 10]")
    if not span[0] < span[1]:
        raise ValueError(f"{label}.range={span!r}: the first number must be the lower one")
    weight = _number(f"{label}.weight", entry.get("weight", 1.0), 1e-9, 1e9)
    return Criterion(name, *map(float, span), weight, entry.get("pattern") or "", entry.get("path", ""))
