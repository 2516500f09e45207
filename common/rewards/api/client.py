"""Calls to the endpoint: so many at a time, so many a minute, each within its time, tried again when that may help."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
import zlib
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from common.rewards.api.cache import ScoreCache, content_key
from common.rewards.api.exchange import Usage, build_request, read_scores, response_format, total
from common.rewards.api.settings import Settings, redacted_url
from common.rewards.api.verdict import BadReplyError, short

logger = logging.getLogger(__name__)

LARGEST_REPLY = 4 * 2**20  # bytes; more cannot be a score
CHARACTERS_PER_TOKEN = 3  # of the estimate for the token limit; texts in Chinese have fewer, in English more
ANSWER_TOKENS = 256  # of the same estimate, where the options do not say how long a judge may speak
SMOOTH_SECONDS = 10  # the token limit is kept over this time
REFUSED = (400, 413, 414, 422, 431)  # this request and no other: too long, filtered, not to be parsed
_SCHEMA_WORDS = re.compile(r"response_format|json_schema|schema|structured|guided|grammar", re.IGNORECASE)
_FILTER_WORDS = re.compile(r"moderation|flagged|content.{0,3}(?:filter|polic|management)", re.IGNORECASE)
WINDOW, LEAST = 200, 20  # the share of failed scores is taken over so many, and not before so many


class ApiRewardError(RuntimeError):
    """The reward cannot continue: wrong key, address or model, or too many failures."""

    ends_run = True  # one is enough (common.rewards.errors)


class CallError(Exception):
    """A call that may go well when it is tried again.

    Args:
        kind: Word for the counts: ``timeout``, ``connection``, ``rate_limit``, ``server``, ``bad_reply``, or
            ``refused``: this request, for good (too long, filtered), which another answer's need not be.
        message: What happened.
        wait_s: How long the endpoint asks to wait.
    """

    def __init__(self, kind: str, message: str, wait_s: float = 0.0):
        super().__init__(message)
        self.kind = kind
        self.wait_s = wait_s


@dataclass
class Scored:
    """The score of one answer, and what it took.

    Args:
        score: 0..1, the weighted mean of the criteria; the default score when `failed`.
        parts: Each criterion, 0..1.
        failed: Kind of the last error when no attempt gave a score, else empty.
        cached: Found in the cache.
        attempts: Calls made.
        latency_s: Time of the call that answered, waiting not included.
        usage: Tokens of that call.
    """

    score: float
    parts: dict[str, float]
    failed: str = ""
    cached: bool = False
    attempts: int = 0
    latency_s: float = 0.0
    usage: Usage = field(default_factory=Usage)


class ApiClient:
    """Scores answers through one endpoint; belongs to the event loop it is first used in.

    Args:
        settings: Of the endpoint.
        trial: Before a run: the first call is made even when the cache knows the answer, to see that the endpoint is
            there, and errors do not speak of resuming.
    """

    def __init__(self, settings: Settings, trial: bool = False):
        self.settings = settings
        self.cache = ScoreCache(settings.cache)
        self.trial = trial
        self.asked = not trial
        self.counts: Counter[str] = Counter()
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self._running: dict[str, asyncio.Future[Scored]] = {}
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._requests = _requests_limiter(settings.requests_per_minute)
        self._tokens = _tokens_limiter(settings.tokens_per_minute)
        self._session: aiohttp.ClientSession | None = None
        self.last_error = ""
        self._asks_for_json = settings.asks_for_json
        self._json_taken = False

    async def score(self, values: Mapping[str, Any]) -> Scored:
        """Score one answer; see `exchange.build_request` for the values.

        Raises:
            ApiRewardError: If the endpoint refuses for good, or too many answers could not be scored.
        """
        self._refuse_after_too_many()
        key = content_key(self.settings, build_request(self.settings, values, nonce=""))
        parts = self.cache.get(key) if self.asked else None
        self.asked = True
        if parts is not None:
            self.counts["cached"] += 1
            return Scored(total(parts, self.settings.criteria), parts, cached=True)
        if key in self._running:  # the same answer is being scored: one call serves both
            return await asyncio.shield(self._running[key])
        call = asyncio.ensure_future(self._call_until_scored(values, key))
        self._running[key] = call
        try:
            return await call
        finally:
            self._running.pop(key, None)

    async def _call_until_scored(self, values: Mapping[str, Any], key: str) -> Scored:
        settings, attempts = self.settings, 0
        retrying = AsyncRetrying(
            stop=stop_after_attempt(settings.attempts),
            wait=_wait(settings),
            retry=retry_if_exception(lambda error: isinstance(error, CallError) and error.kind != "refused"),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    attempts = attempt.retry_state.attempt_number
                    self.counts["calls"] += 1
                    parts, usage, seconds = await self._call(values)
        except CallError as error:
            return self._failed(error, attempts)
        self.cache.put(key, parts)
        self._note(usage)
        return Scored(total(parts, settings.criteria), parts, "", False, attempts, seconds, usage)

    async def _call(self, values: Mapping[str, Any]) -> tuple[dict[str, float], Usage, float]:
        body = build_request(self.settings, values)
        if self._tokens is not None:
            await self._tokens.acquire(min(_estimate(body), self._tokens.max_rate))
        if self._requests is not None:
            await self._requests.acquire()
        async with self._slots:
            started = time.monotonic()
            try:
                _, text = await self.exchange(body)
                parts, usage = read_scores(self.settings, text, str(values["answer"]))
            except (BadReplyError, CallError) as error:
                error = CallError(error.kind, self.settings.redact(str(error)), getattr(error, "wait_s", 0.0))
                self._count_error(error.kind, error)
                raise error from None
            return parts, usage, time.monotonic() - started

    async def exchange(self, body: dict[str, Any]) -> tuple[int, str]:
        """One call: status and text of a reply that is not an error; a judge has to write JSON where possible.

        Raises:
            CallError: If it may go well for another call.
            ApiRewardError: If it never will.
        """
        if self._asks_for_json:
            status, text, error = await self._post({**body, "response_format": response_format(self.settings)})
            if error is None:
                self._json_taken = True
                return status, text
            # As long as no judge had to write JSON, any refusal may be of response_format: it is asked once in words.
            refused = status in REFUSED or (status in (500, 501) and _SCHEMA_WORDS.search(text))
            if self._json_taken or not refused or self.settings.structured == "on":
                raise error
        status, text, error = await self._post(body)
        if error is not None:
            raise error
        if self._asks_for_json and not self._json_taken:
            logger.warning(
                "API reward: %s takes no response_format; the judge is asked in words", self.settings.shown_url
            )
            self._asks_for_json = False
        return status, text

    async def _post(self, body: dict[str, Any]) -> tuple[int, str, Exception | None]:
        """Status and text of the reply, and what is wrong with its status."""
        shown = self.settings.shown_url
        try:
            async with self.open_session().post(self.settings.url, json=body, allow_redirects=False) as response:
                content = bytearray()
                while not response.content.at_eof() and len(content) <= LARGEST_REPLY:
                    content += await response.content.read(LARGEST_REPLY + 1 - len(content))
                content = _unpacked(bytes(content), response.headers.get("Content-Encoding", ""))
                text = self.settings.redact(content.decode("utf-8", errors="replace"))
                if len(content) > LARGEST_REPLY:
                    raise CallError("bad_reply", f"the reply has more than {LARGEST_REPLY} bytes")
                return response.status, text, status_error(response, text, self.settings)
        except asyncio.TimeoutError:
            raise CallError("timeout", f"no reply within timeout_s={self.settings.timeout_s:g}") from None
        except aiohttp.InvalidURL:
            raise ApiRewardError(f"url={shown!r} is not an address") from None
        except (aiohttp.ClientError, OSError) as error:  # its text may hold the whole address
            said = self.settings.redact(f"{type(error).__name__}: {error}").replace(self.settings.url, shown)
            raise CallError("connection", said) from None

    def open_session(self) -> aiohttp.ClientSession:
        """The connections, with the key in their headers."""
        if self._session is None or self._session.closed:
            key, settings = self.settings.key, self.settings
            parts = urlsplit(settings.url)
            if key and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
                logger.warning("API reward: the key goes to %s unencrypted; use https://", settings.shown_url)
            if not key.isprintable():
                raise ApiRewardError(f"the key in {settings.api_key_env} holds a line end or a control character")
            key_header = {"Authorization": f"Bearer {key}"} if key else {}
            self._session = aiohttp.ClientSession(
                headers={"Accept-Encoding": "identity", **settings.headers, **key_header},
                auto_decompress=False,  # aiohttp unpacks without a limit
                timeout=aiohttp.ClientTimeout(total=settings.timeout_s),
                connector=aiohttp.TCPConnector(limit=settings.concurrency),
            )
        return self._session

    # ---- counts and failures -------------------------------------------------------------------------------

    def _note(self, usage: Usage) -> None:
        self._recent.append(True)
        self.counts["scored"] += 1
        self.counts["tokens_in"] += usage.tokens_in
        self.counts["tokens_out"] += usage.tokens_out

    def _count_error(self, kind: str, error: Exception) -> None:
        self.counts[kind] += 1
        logger.info("API reward: %s: %s", kind, error)

    def _failed(self, error: CallError, attempts: int) -> Scored:
        self._recent.append(False)
        self.counts["failed"] += 1
        logger.warning(
            "API reward: no score after %d attempts (%s: %s); default_score=%g counts (failure %d)",
            attempts, error.kind, error, self.settings.default_score, self.counts["failed"],
        )  # fmt: skip
        self.last_error = f"{error.kind}: {error}"
        self._refuse_after_too_many()
        default = self.settings.default_score
        return Scored(default, {one.name: default for one in self.settings.criteria}, error.kind, False, attempts)

    def _refuse_after_too_many(self) -> None:
        """Raise once more than `max_failed_share` of the last scores failed, when ``on_failure`` is ``stop``."""
        failed, limit = self._recent.count(False), self.settings.max_failed_share
        if self.settings.on_failure != "stop" or failed <= limit * max(len(self._recent), LEAST):
            return
        if self.trial:
            raise ApiRewardError(
                f"{self.settings.shown_url} gave no score to an answer ({self.last_error}); python -m ppo.api_reward "
                "try shows the exchange"
            )
        raise ApiRewardError(
            f"{failed} of the last {len(self._recent)} answers got no score (max_failed_share={limit:g}; last: "
            f"{self.last_error}). Fix the endpoint {self.settings.shown_url} and run the same command again "
            "to resume, or set ON_FAILURE=default to continue with default_score"
        )

    def cost(self, usage: Usage) -> float:
        """Price of a call, in the currency of ``price_in`` and ``price_out`` (per million tokens)."""
        return (usage.tokens_in * self.settings.price_in + usage.tokens_out * self.settings.price_out) / 1e6

    async def disconnect(self) -> None:
        """Close the connections; the next call opens new ones."""
        if self._session is not None:
            await self._session.close()

    async def close(self) -> None:
        """Close connections and the cache."""
        await self.disconnect()
        self.cache.close()


def _unpacked(content: bytes, encoding: str) -> bytes:
    """The bytes of a reply that a proxy packed although none was asked for, no more than one above the limit.

    Raises:
        CallError: If they are packed otherwise than by gzip or deflate, or broken.
    """
    if encoding.strip().lower() in ("", "identity"):
        return content
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise CallError("bad_reply", f"the reply is packed as {encoding[:40]!r}, which was not asked for")
    try:
        return zlib.decompressobj(wbits=47).decompress(content, LARGEST_REPLY + 1)
    except zlib.error as error:
        raise CallError("bad_reply", f"the reply is not whole {encoding}: {error}") from None


def status_error(response: aiohttp.ClientResponse, text: str, settings: Settings) -> Exception | None:
    """What a status other than 2xx means: the end, a failed answer, or another try; `text` is redacted."""
    status, said = response.status, short(text)
    url = settings.shown_url
    if 200 <= status < 300:
        return None
    if status == 429:
        return CallError("rate_limit", f"HTTP 429: {said}", _retry_after(response))
    if status >= 500 or status in (408, 409, 425):
        return CallError("server", f"HTTP {status}: {said}", _retry_after(response))
    if status in REFUSED or (status == 403 and _FILTER_WORDS.search(text)):
        return CallError("refused", f"HTTP {status}: {said}")
    if 300 <= status < 400:
        target = redacted_url(settings.redact(response.headers.get("Location", "nowhere")))
        return ApiRewardError(f"{url} redirects to {target} (HTTP {status}); redirects are not followed, set url to it")
    if status in (401, 403):
        name = settings.api_key_env
        fix = f"export the right key as {name}" if name else "name the variable that holds the key in api_key_env"
        if name and not settings.key:
            fix = f"{name} is not set; export it"
        return ApiRewardError(f"{url} refuses the key (HTTP {status}: {said}); {fix}")
    return ApiRewardError(
        f"{url} refuses the request (HTTP {status}: {said}); check url, model={settings.model!r} and the "
        "request in the settings with: python -m ppo.api_reward try"
    )


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Seconds that the endpoint asks to wait; dates, which the header may hold too, are not read."""
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _wait(settings: Settings):
    """Back-off with jitter (1, 2, 4 ... x `backoff_s`), or longer when the endpoint says so; never above the limit."""
    grows = wait_exponential_jitter(
        multiplier=settings.backoff_s, max=settings.longest_wait_s, jitter=settings.backoff_s
    )

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait_s if isinstance(error, CallError) else 0.0
        return min(max(grows(state), asked), settings.longest_wait_s)

    return wait


def _requests_limiter(per_minute: float) -> AsyncLimiter | None:
    """A limiter that lets a second's worth through at once, at least one."""
    if not per_minute:
        return None
    burst = max(1.0, per_minute / 60)
    return AsyncLimiter(burst, burst * 60 / per_minute)


def _tokens_limiter(per_minute: float) -> AsyncLimiter | None:
    return AsyncLimiter(max(1.0, per_minute * SMOOTH_SECONDS / 60), SMOOTH_SECONDS) if per_minute else None


def _estimate(body: dict[str, Any]) -> float:
    """Tokens that a request will count for, before it is made."""
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    answer = asked if isinstance(asked, int) else ANSWER_TOKENS
    return max(1.0, len(json.dumps(body, ensure_ascii=False)) / CHARACTERS_PER_TOKEN + answer)
