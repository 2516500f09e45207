"""What is new of a job since a cursor: one form of messages for every transport.

A cursor is a place in the table of events and in the run's files, not in memory: ``e41.m2:81234.l90812`` is event 41,
byte 81,234 of the metrics file of attempt 2, byte 90,812 of train.log. So a client that was cut off, or whose server
was killed, continues exactly where it was, and a step that is trained again is another message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.files import open_regular
from common.metrics.names import BY_NAME, friendly
from common.run_dir import LOG_FILE, metrics_files, read_record
from common.tail import MAX_LINE
from monitor.plain import plain
from monitor.store import Monitor
from monitor.system import Sampler
from training_platform.api.errors import ApiError
from training_platform.api.find import find
from training_platform.api.runs import read_log
from training_platform.api.views import Views
from training_platform.message import Message
from training_platform.queue.store import ENDED, now

TYPES = ("state", "queue", "attempt", "metrics", "validation", "gpu", "log")
AS_DEFAULT = ("state", "queue", "attempt", "metrics", "validation", "gpu")
CHUNK = 256 << 10  # bytes of metrics in one look
LOG_CHUNK = 64 << 10  # bytes of a log in one message
MAX_BEHIND = 1 << 20  # bytes of a log that are sent one after another; what is more is passed over and counted
_CURSOR = re.compile(r"e(\d{1,18})\.m(\d{1,9}):(\d{1,18})\.l(\d{1,18})")
_ATTEMPT = re.compile(r"metrics\.(\d+)\.jsonl")


@dataclass(frozen=True)
class Cursor:
    """A place: event, attempt (0: before the first) and byte of its metrics file, byte of the log."""

    event: int = 0
    attempt: int = 0
    offset: int = 0
    log: int = 0

    def __str__(self) -> str:
        return f"e{self.event}.m{self.attempt}:{self.offset}.l{self.log}"


def parse(text: str | None) -> Cursor:
    """The cursor of a text; the beginning for none.

    Raises:
        ApiError: 422 when it is not a cursor.
    """
    if not text:
        return Cursor()
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise ApiError(422, "invalid", f"after={plain(text)[:100]}: is not the id of a message, as e41.m2:81234.l90812")
    return Cursor(*map(int, match.groups()))


class Feed:
    """The messages of one client about one job.

    Args:
        views: Of the server.
        sampler: Tells of GPUs.
        uuid: The job, or a run's name.
        cursor: Where the client was.
        types: The kinds of messages to send.
        raw: The trainer's own names of metrics.

    Raises:
        ApiError: 404 when the job does not exist.
    """

    def __init__(
        self, views: Views, sampler: Sampler, uuid: str, cursor: Cursor, types: Sequence[str], raw: bool = False
    ):
        self.views, self.sampler, self.types, self.raw = views, sampler, set(types), raw
        self.monitor: Monitor = views.monitor
        found = find(views.store, self.monitor, uuid)
        self.uuid = found.job.uuid if found.job else uuid
        self.run = found.run
        self.cursor = cursor
        self._queue: dict[str, Any] | None = None
        self._gpus = 0.0
        self._room = CHUNK

    def hello(self) -> Message:
        """The first message of a connection."""
        return self._message("hello", {"job": self.uuid, "types": sorted(self.types)})

    def message(self, kind: str) -> Message:
        """A message without data: ``ping``."""
        return self._message(kind, {})

    def read(self) -> tuple[list[Message], bool, bool]:
        """Looks once.

        Returns:
            What is new, whether there is more to read at once, and whether nothing will ever come any more.
        """
        ended = self._state() in ENDED  # before the files are looked at: what they got until then is read below
        found = [*self._events()]
        if (reset := self._misfit()) is not None:
            return [*found, reset], True, False
        found += self._waiting()
        before = self.cursor
        found += self._metrics()
        found += self._log()
        more = self.cursor != before
        if not ended:
            found += self._gpu()
        return found, more, ended and not found and not more

    def _message(self, kind: str, data: dict[str, Any], time: str = "") -> Message:
        return Message(str(self.cursor), kind, self.uuid, time or now(), data)

    def _state(self) -> str:
        job = self.views.store.get(self.uuid)
        if job is not None:
            self.run = job.run
            return job.state
        row = self.monitor.row(self.run)
        return row.state if row else "finished"

    def _events(self) -> Iterator[Message]:
        for event in self.views.store.events(self.cursor.event, self.uuid):
            self.cursor = replace(self.cursor, event=event["id"])
            if event["type"] in self.types:
                yield self._message(event["type"], event["data"], event["time"])

    def _waiting(self) -> Iterator[Message]:
        job = self.views.store.get(self.uuid) if "queue" in self.types else None
        waiting = self.views.waiting(job).model_dump() if job and job.state == "queued" else None
        if waiting != self._queue:
            self._queue = waiting
            if waiting:
                yield self._message("queue", waiting)

    @property
    def _folder(self) -> Path:
        return self.views.scheduler.outputs / self.run

    def _misfit(self) -> Message | None:
        """A file is shorter than what the client has of it: it is another one, so all is read again."""
        files = dict(self._files())
        sizes = {number: path.stat().st_size for number, path in files.items()}
        lost = self.cursor.attempt and sizes.get(self.cursor.attempt, 0) < self.cursor.offset
        log = self._folder / LOG_FILE
        if not lost and (not self.cursor.log or (log.is_file() and log.stat().st_size >= self.cursor.log)):
            return None
        self.cursor = Cursor(event=self.cursor.event)
        return self._message("reset", {})

    def _files(self) -> Iterator[tuple[int, Path]]:
        for path in metrics_files(self._folder):
            match = _ATTEMPT.fullmatch(path.name)
            yield int(match[1]) if match else 1, path

    def _metrics(self) -> Iterator[Message]:
        for number, path in self._files():
            if number < self.cursor.attempt:
                continue
            if number > self.cursor.attempt:
                if not path.stat().st_size:
                    return
                self.cursor = replace(self.cursor, attempt=number, offset=0)
            yield from self._records(path)
            if path.stat().st_size > self.cursor.offset:
                return  # the rest of this one first

    def _records(self, path: Path) -> Iterator[Message]:
        """The new whole lines of a metrics file: neighbours of a kind in one message."""
        with open_regular(path) as stream:
            stream.seek(self.cursor.offset)
            data = stream.read(self._room) or b""
        end = data.rfind(b"\n") + 1
        if not end:
            self._room = min(MAX_LINE, 2 * self._room) if len(data) == self._room else CHUNK
            if len(data) >= MAX_LINE:
                self.cursor = replace(self.cursor, offset=self.cursor.offset + len(data))
            return
        self._room = CHUNK
        first = self.cursor.offset == 0 and self.cursor.attempt > 1
        kind, rows = "", []
        for line in data[:end].splitlines(keepends=True):
            record = read_record(line)
            if record is not None:
                is_kind = "metrics" if _trained(record["data"]) else "validation"
                if first and is_kind == "metrics":
                    first = False
                    if "attempt" in self.types:
                        yield self._message("attempt", {"attempt": self.cursor.attempt, "from_step": record["step"]})
                if rows and is_kind != kind:
                    yield from self._wanted(kind, rows)
                    rows = []
                kind = is_kind
                rows.append({"step": record["step"], **self._named(record["data"])})
            self.cursor = replace(self.cursor, offset=self.cursor.offset + len(line))
        yield from self._wanted(kind, rows)

    def _wanted(self, kind: str, rows: list[dict[str, Any]]) -> Iterator[Message]:
        if rows and kind in self.types:
            yield self._message(kind, {"records": rows})

    def _named(self, data: dict[str, Any]) -> dict[str, Any]:
        if self.raw:
            return data
        return {**{name: value for name, value in data.items() if "/" not in name}, **friendly(data)}

    def _log(self) -> Iterator[Message]:
        path = self._folder / LOG_FILE
        if "log" not in self.types or not path.is_file():
            return
        size = path.stat().st_size
        if size <= self.cursor.log:
            return
        data: dict[str, Any] = {}
        if size - self.cursor.log > MAX_BEHIND:
            data["skipped"] = size - LOG_CHUNK - self.cursor.log
            self.cursor = replace(self.cursor, log=size - LOG_CHUNK)
        part = read_log(path, self.cursor.log, LOG_CHUNK)
        if part.next_offset > self.cursor.log:
            self.cursor = replace(self.cursor, log=part.next_offset)
            yield self._message("log", {**data, "text": part.text, "next_offset": part.next_offset})

    def _gpu(self) -> Iterator[Message]:
        moment = self.sampler.moments[-1] if "gpu" in self.types and self.sampler.moments else None
        if moment and moment.gpus and moment.time > self._gpus:
            self._gpus = moment.time
            yield self._message("gpu", {"gpus": gpu_records(moment.gpus)})


def gpu_records(gpus: Sequence[Any]) -> list[dict[str, Any]]:
    """GPUs as the API shows them; use in percent, memory in GB, temperature in Celsius, power in watts."""
    return [
        {
            "index": gpu.index,
            "name": gpu.name,
            "utilization": gpu.use,
            "memory_used": gpu.memory and gpu.memory / 1e9,
            "memory_total": gpu.total and gpu.total / 1e9,
            "temperature": gpu.temperature,
            "power": gpu.power,
        }
        for gpu in gpus
    ]


def _trained(data: dict[str, Any]) -> bool:
    """Whether a record is of a step that trained; one that holds nothing but validation is not."""
    named = friendly(data)
    if any(not BY_NAME[name].validates for name in named):
        return True
    return not named and not all(name.startswith(("val-", "val/")) for name in data)
