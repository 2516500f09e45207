"""Calls to the endpoint: so many at a time, so many a minute, each within its time, tried again when that may help."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from ppo.api.cache import ScoreCache, content_key
from ppo.api.exchange import BadReplyError, Usage, build_request, read_scores, total
from ppo.api.settings import Settings

logger = logging.getLogger(__name__)

LARGEST_REPLY = 4 * 2**20  # bytes; more is no score
CHARACTERS_PER_TOKEN = 3  # of the estimate for the token limit; texts in Chinese have fewer, in English more
ANSWER_TOKENS = 256  # of the same estimate, where the options do not say how long a judge may speak
SMOOTH_SECONDS = 10  # the token limit is kept over this time
WINDOW, LEAST = 200, 20  # the share of failed scores is taken over so many, and not before so many


class ApiRewardError(RuntimeError):
    """The reward cannot go on: wrong key, address or model, or too many failures."""


class CallError(Exception):
    """A call that may go well when it is tried again.

    Args:
        kind: Word for the counts: ``timeout``, ``connection``, ``rate_limit``, ``server`` or ``bad_reply``.
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

    async def score(self, values: Mapping[str, Any]) -> Scored:
        """Score one answer; see `exchange.build_request` for the values.

        Raises:
            ApiRewardError: If the endpoint refuses for good, or too many answers could not be scored.
        """
        self._refuse_after_too_many()
        body = build_request(self.settings, values)
        key = content_key(self.settings, body)
        parts = self.cache.get(key) if self.asked else None
        self.asked = True
        if parts is not None:
            self.counts["cached"] += 1
            return Scored(total(parts, self.settings.criteria), parts, cached=True)
        if key in self._running:  # the same answer is being scored: one call serves both
            return await asyncio.shield(self._running[key])
        call = asyncio.ensure_future(self._call_until_scored(body, key))
        self._running[key] = call
        try:
            return await call
        finally:
            self._running.pop(key, None)

    async def _call_until_scored(self, body: dict[str, Any], key: str) -> Scored:
        settings, attempts = self.settings, 0
        retrying = AsyncRetrying(
            stop=stop_after_attempt(settings.attempts),
            wait=_wait(settings),
            retry=retry_if_exception_type(CallError),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    attempts = attempt.retry_state.attempt_number
                    self.counts["calls"] += 1
                    parts, usage, seconds = await self._call(body)
        except CallError as error:
            return self._failed(error, attempts)
        self.cache.put(key, parts)
        self._note(usage)
        return Scored(total(parts, settings.criteria), parts, "", False, attempts, seconds, usage)

    async def _call(self, body: dict[str, Any]) -> tuple[dict[str, float], Usage, float]:
        if self._tokens is not None:
            await self._tokens.acquire(min(_estimate(body), self._tokens.max_rate))
        if self._requests is not None:
            await self._requests.acquire()
        async with self._slots:
            started = time.monotonic()
            try:
                text = await self._post(body)
                parts, usage = read_scores(self.settings, text)
            except BadReplyError as error:
                self._count_error("bad_reply", error)
                raise CallError("bad_reply", str(error)) from error
            except CallError as error:
                self._count_error(error.kind, error)
                raise
            return parts, usage, time.monotonic() - started

    async def _post(self, body: dict[str, Any]) -> str:
        try:
            async with self.open_session().post(self.settings.url, json=body) as response:
                content = await response.content.read(LARGEST_REPLY)
                while not response.content.at_eof() and len(content) < LARGEST_REPLY:
                    content += await response.content.read(LARGEST_REPLY - len(content))
                text = content.decode("utf-8", errors="replace")
                check_status(response, text, self.settings)
                return text
        except asyncio.TimeoutError as error:
            raise CallError("timeout", f"no reply within timeout_s={self.settings.timeout_s:g}") from error
        except aiohttp.InvalidURL as error:
            raise ApiRewardError(f"url={self.settings.url!r} is no address: {error}") from error
        except aiohttp.ClientError as error:
            raise CallError("connection", f"{type(error).__name__}: {error}") from error

    def open_session(self) -> aiohttp.ClientSession:
        """The connections, with the key in their headers."""
        if self._session is None or self._session.closed:
            key, settings = self.settings.key, self.settings
            self._session = aiohttp.ClientSession(
                headers={**settings.headers, **({"Authorization": f"Bearer {key}"} if key else {})},
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
                f"{self.settings.url} gave no score to an answer ({self.last_error}); python -m ppo.api_reward try "
                "shows the exchange"
            )
        raise ApiRewardError(
            f"{failed} of the last {len(self._recent)} answers got no score (max_failed_share={limit:g}; last: "
            f"{self.last_error}). Mend the endpoint {self.settings.url} and run the same command again "
            "to resume, or set ON_FAILURE=default to go on with default_score"
        )

    def cost(self, usage: Usage) -> float:
        """Price of a call, in the currency of ``price_in`` and ``price_out`` (per million tokens)."""
        return (usage.tokens_in * self.settings.price_in + usage.tokens_out * self.settings.price_out) / 1e6

    async def close(self) -> None:
        """Close connections and the cache."""
        if self._session is not None:
            await self._session.close()
        self.cache.close()


def check_status(response: aiohttp.ClientResponse, text: str, settings: Settings) -> None:
    """Raise for every status other than 2xx: for good, or to be tried again."""
    status, said = response.status, " ".join(text.split())[:200]
    if 200 <= status < 300:
        return
    if status == 429:
        raise CallError("rate_limit", f"HTTP 429: {said}", _retry_after(response))
    if status >= 500 or status in (408, 409, 425):
        raise CallError("server", f"HTTP {status}: {said}", _retry_after(response))
    key = settings.key
    said = said.replace(key, "***") if key else said
    if status in (401, 403):
        name = settings.api_key_env
        fix = f"export the right key as {name}" if name else "name the variable that holds the key in api_key_env"
        if name and not key:
            fix = f"{name} is not set; export it"
        raise ApiRewardError(f"{settings.url} refuses the key (HTTP {status}: {said}); {fix}")
    raise ApiRewardError(
        f"{settings.url} refuses the request (HTTP {status}: {said}); check url, model={settings.model!r} and the "
        "request in the settings with: python -m ppo.api_reward try"
    )


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Seconds that the endpoint asks to wait; dates, which the header may hold too, are not read."""
    try:
        return max(0.0, float(response.headers.get("Retry-After", "")))
    except ValueError:
        return 0.0


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
    wanted = body.get("max_completion_tokens") or body.get("max_tokens")
    answer = wanted if isinstance(wanted, int) else ANSWER_TOKENS
    return max(1.0, len(json.dumps(body, ensure_ascii=False)) / CHARACTERS_PER_TOKEN + answer)
