"""The platform from Python.

from training_platform.client import PlatformClient

with PlatformClient() as platform:                  # PLATFORM_URL and PLATFORM_TOKEN, or http://localhost:8000
    job = platform.submit(algorithm="grpo", num_gpus=0)
    for message in job.follow(types=["metrics", "state"]):
        print(message.type, message.data)
    print(job.wait().state, job.checkpoints()[-1]["eval_results"])
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx

from training_platform.message import Message

URL = "http://localhost:8000"
ENDED = ("finished", "failed", "stopped", "died")
RECONNECT = 1.0  # seconds


class PlatformError(Exception):
    """An answer that is not a success.

    Args:
        status: Of HTTP; 0 when there was no answer.
        code: For programs, as "wrong_state".
        message: For people.
        fields: Field -> what is wrong with it.
    """

    def __init__(self, status: int, code: str, message: str, fields: dict[str, str] | None = None):
        self.status, self.code, self.message, self.fields = status, code, message, fields or {}
        super().__init__(message)


class Job:
    """A job as it was when it was last asked for; `refresh` asks again.

    Args:
        client: The platform.
        data: The answer of the API.
    """

    def __init__(self, client: PlatformClient, data: dict[str, Any]):
        self._client = client
        self.data = data

    def __repr__(self) -> str:
        return f"<Job {self.name} ({self.uuid}): {self.state}>"

    @property
    def uuid(self) -> str:
        """Its id."""
        return self.data["uuid"]

    @property
    def name(self) -> str:
        """Of its run directory."""
        return self.data["name"]

    @property
    def state(self) -> str:
        """created, queued, starting, running, stopping, finished, failed or stopped."""
        return self.data["state"]

    def refresh(self) -> Job:
        """Asks for it again."""
        return self._take("GET", "")

    def start(self) -> Job:
        """Queues it."""
        return self._take("POST", "/start")

    def stop(self, force: bool = False) -> Job:
        """Ends it; its run leaves a checkpoint. `force`: killed when that takes more than 30 s."""
        return self._take("POST", "/stop", json={"force": force})

    def restart(self, start_at: Literal["latest", "scratch"] | int = "latest", **knobs: Any) -> Job:
        """Resumes from the newest checkpoint, or returns a new job from the start or from a step."""
        data = self._ask("POST", "/restart", json={"from": start_at, "knobs": knobs})
        return Job(self._client, data)

    def delete(self, files: bool = False) -> None:
        """Forgets it; `files`: its run directory goes too."""
        self._client.request("DELETE", self._path(""), params={"files": files})

    def metrics(self, **query: Any) -> list[dict[str, Any]]:
        """A row a step; `last`, `after_step`, `names`, `source`, `raw` as in the API."""
        return self._ask("GET", "/metrics", params=query)

    def checkpoints(self) -> list[dict[str, Any]]:
        """Step, path and scores, oldest first."""
        return self._ask("GET", "/checkpoints")

    def select(self, step: int | None) -> None:
        """Chooses the checkpoint that evaluations and test.sh take; None: the newest again."""
        self._ask("POST", "/select", json={"step": step})

    def operation(self, kind: str, **asked: Any) -> dict[str, Any]:
        """``merge``, ``average``, ``prune``, ``verify`` or ``evaluate``; waits for its end.

        Args:
            kind: Which one.
            asked: As in the API.

        Returns:
            The operation: id, text, result.

        Raises:
            PlatformError: If it is refused or fails; the message is the end of what it has said.
        """
        made = self._ask("POST", f"/{kind}", json=asked)
        while made["state"] == "running":
            time.sleep(0.5)
            made = self._client.request("GET", f"/api/operations/{made['id']}")
        if made["state"] == "failed":
            raise PlatformError(0, "operation_failed", f"{kind} of {self.name}: {made['text'][-1000:].strip()}")
        return made

    def evaluate(self, to: str | Path, **asked: Any) -> Path:
        """Answers a file of questions and writes the Excel file with the scores; arguments as in the API."""
        made = self.operation("evaluate", **asked)
        path = Path(to)
        path.write_bytes(self._client.content(f"/api/operations/{made['id']}/file"))
        return path

    def log(self, offset: int = 0, limit: int = 65536, source: str = "train") -> dict[str, Any]:
        """A part of the log: text, next_offset, size."""
        return self._ask("GET", "/log", params={"offset": offset, "limit": limit, "source": source})

    def wait(self, seconds: float | None = None) -> Job:
        """Waits for its end.

        Raises:
            TimeoutError: If it has not ended after so long.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while self.refresh().state not in ENDED:
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"job {self.name} is {self.state} after {seconds} s")
            time.sleep(0.5)
        return self

    def follow(self, types: Sequence[str] = (), after: str | None = None) -> Iterator[Message]:
        """Its messages as they come, to its end; a connection that breaks is made again where it was."""
        place = after
        while True:
            try:
                for message in self._client.events(self._path("/events"), types, place):
                    place = message.id
                    if message.type == "end":
                        return
                    if message.type not in ("hello", "ping"):
                        yield message
            except httpx.TransportError:
                pass
            time.sleep(RECONNECT)

    def _path(self, end: str) -> str:
        return f"/api/jobs/{quote(self.uuid, safe='')}{end}"

    def _ask(self, method: str, end: str, **options: Any) -> Any:
        return self._client.request(method, self._path(end), **options)

    def _take(self, method: str, end: str, **options: Any) -> Job:
        self.data = self._ask(method, end, **options)
        return self


class PlatformClient:
    """A connection to a platform.

    Args:
        url: Where it is; ``PLATFORM_URL`` of the environment when it is not given.
        token: ``PLATFORM_TOKEN`` of the environment when it is not given.
        timeout: Seconds of one request.
    """

    def __init__(self, url: str | None = None, token: str | None = None, timeout: float = 60.0):
        self.url = (url or os.environ.get("PLATFORM_URL") or URL).rstrip("/")
        token = os.environ.get("PLATFORM_TOKEN", "") if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        local = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=not local)

    def __enter__(self) -> PlatformClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._http.close()

    def submit(self, start: bool = True, **fields: Any) -> Job:
        """Creates a job and queues it; the fields are those of ``POST /api/jobs``.

        Raises:
            PlatformError: If a field is unknown or refused; its `fields` name each.
        """
        return Job(self, self.request("POST", "/api/jobs", json={**fields, "start": start}))

    def job(self, uuid: str) -> Job:
        """A job by its id or its run's name."""
        return Job(self, self.request("GET", f"/api/jobs/{quote(uuid, safe='')}"))

    def jobs(self, **query: Any) -> list[Job]:
        """Jobs, newest first; `state`, `owner`, `algorithm`, `q`, `limit` as in the API."""
        return [Job(self, data) for data in self.request("GET", "/api/jobs", params=query)]

    def check(self, **fields: Any) -> dict[str, Any]:
        """The preflight's findings and the memory plan of a job that is not made."""
        return self.request("POST", "/api/jobs/check", json=fields, timeout=400.0)

    def queue(self) -> dict[str, Any]:
        """Who has which slots, and who waits."""
        return self.request("GET", "/api/queue")

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Any address of the API; returns what the JSON of the answer holds, None without one.

        Raises:
            PlatformError: If the answer is not a success, or there is none.
        """
        answer = self._answer(method, path, **options)
        return answer.json() if answer.content else None

    def content(self, path: str) -> bytes:
        """A file of the API.

        Raises:
            PlatformError: If the answer is no success, or there is none.
        """
        return self._answer("GET", path).content

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            text = f"{self.url} does not answer ({type(error).__name__}); is `python -m training_platform serve` up?"
            raise PlatformError(0, "no_answer", text) from error
        _check(answer)
        return answer

    def events(self, path: str, types: Sequence[str] = (), after: str | None = None) -> Iterator[Message]:
        """The messages of one connection to a stream of Server-Sent Events."""
        query = {"types": ",".join(types)} if types else {}
        headers = {"Last-Event-ID": after} if after else {}
        with self._http.stream("GET", path, params=query, headers=headers, timeout=60.0) as answer:
            if answer.is_error:
                answer.read()
                _check(answer)
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield Message(**json.loads(line[6:]))


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    try:
        error = answer.json()["error"]
        fields = {one["field"]: one["message"] for one in error["fields"]}
        raise PlatformError(answer.status_code, error["code"], error["message"], fields)
    except (ValueError, KeyError, TypeError):
        raise PlatformError(answer.status_code, "error", answer.text[:500] or answer.reason_phrase) from None
