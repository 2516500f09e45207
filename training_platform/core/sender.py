"""Sends records to a platform from a separate thread; the training that makes them never waits and never ends for it.

Each batch is written to a spool file first, then sent from there until the platform has it. So nothing is lost while
the platform is away or when the training is killed, memory stays small, and what one process could not send the next
one of the same job does. Batches are numbered within a session, so that the platform keeps each of them once.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import re
import threading
import time
import uuid
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

EVERY = 0.5  # seconds between two batches
BATCH = 500  # records; a batch is sent at once when so many wait
MOST_WAITING = 100_000  # records that wait for the thread; the oldest go first, and it is said
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds after a failure, doubled each time
FINISH_SECONDS = 10.0
TIMEOUT = 10.0  # seconds of one request
USELESS = (400, 413, 422)  # this batch will never be taken


def spool_folder() -> Path:
    """Where spool files are; ``TRAINING_PLATFORM_SPOOL`` moves them."""
    given = os.environ.get("TRAINING_PLATFORM_SPOOL")
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "training_platform")


class Sender:
    """Sends the records of one job.

    Args:
        job: Its id.
        url: Of the platform.
        token: One that may write, "" for none.
        folder: Of the spool files.
    """

    def __init__(self, job: str, url: str, token: str = "", folder: Path | None = None):
        self.job, self.url, self.token = job, url.rstrip("/"), token
        self.folder = folder or spool_folder()
        self._begin()
        atexit.register(self.finish)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MOST_WAITING)
        self._wake, self._done = threading.Event(), threading.Event()
        self._deadline: float | None = None  # None while records may still come
        self._spool = _Spool(self.folder, self.job)
        self._said: set[str] = set()
        self._refused = False  # the platform will never take what this job sends
        self._failures, self._retry_at = 0, 0.0
        self._thread = threading.Thread(target=self._run, daemon=True, name="platform sender")
        self._thread.start()

    def put(self, record: dict[str, Any]) -> None:
        """Takes a record; costs some microseconds whatever the platform does."""
        if os.getpid() != self._pid:  # in a process that was forked the thread is not there
            self._begin()
        self._waiting.append(record)
        if len(self._waiting) >= BATCH:
            self._wake.set()

    def finish(self, seconds: float = FINISH_SECONDS) -> None:
        """Waits for what is still to be sent, so long at most; what is left stays in the spool file."""
        if os.getpid() != self._pid or self._done.is_set():
            return
        self._deadline = time.monotonic() + seconds
        self._wake.set()
        self._done.wait(seconds + 1.0)

    # ---- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            import httpx

            local = (urlsplit(self.url).hostname or "") in ("localhost", "127.0.0.1", "::1")
            headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            with httpx.Client(timeout=TIMEOUT, headers=headers, trust_env=not local) as client:
                self._loop(client)
        except Exception as error:  # whatever it is, the training continues
            self._say("thread", f"nothing more is sent: {type(error).__name__}: {error}")
        finally:
            self._spool.close()
            self._done.set()

    def _loop(self, client: Any) -> None:
        leftovers = list(leftover_spools(self.folder, self.job))
        while True:
            self._wake.wait(EVERY)
            self._wake.clear()
            ends = self._deadline is not None
            self._take()
            if time.monotonic() >= self._retry_at or ends:
                while leftovers and self._send_all(client, leftovers[0]):
                    leftovers.pop(0).remove()
                if not leftovers and self._send_all(client, self._spool):
                    self._spool.rewind()
            if ends and not self._waiting:
                left = self._spool.unsent()
                if not left or self._refused:
                    self._spool.remove()
                    return
                if time.monotonic() > self._deadline:
                    self._say("left", f"{left} batches stay in {self._spool.path}; the next run of this job sends them")
                    return
                self._wake.wait(min(0.2, EVERY))

    def _take(self) -> None:
        """Writes what waits to the spool file."""
        while self._waiting:
            lost = len(self._waiting) == MOST_WAITING
            records = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            if lost:
                self._say("lost", f"more than {MOST_WAITING:,} records waited; the oldest were dropped")
            try:
                self._spool.write(records)
            except OSError as error:
                self._say("spool", f"{self._spool.path}: {error.strerror}; records are dropped until it can be written")

    def _send_all(self, client: Any, spool: _Spool) -> bool:
        """Sends what is in a spool file; whether all of it has arrived."""
        for body in spool.batches():
            if self._refused:
                return True
            if not self._send(client, body):
                return False
            spool.sent()
        return True

    def _send(self, client: Any, body: bytes) -> bool:
        """Sends a batch; whether it is done with."""
        import httpx

        try:
            answer = client.post(f"{self.url}/api/records", content=body, headers={"Content-Type": "application/json"})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return self._failed(f"does not answer ({type(error).__name__}); records wait in {self._spool.path}")
        if answer.is_success:
            if self._failures:
                self._said.discard("away")
            self._failures, self._retry_at = 0, 0.0
            return True
        said = answer.text[:300]
        if answer.status_code == 409:
            self._refused = True
            self._say("own", f"takes no reports of this job: {said}")
            return True
        if answer.status_code in USELESS:
            self._say("useless", f"refuses a batch, which is dropped: {said}")
            return True
        return self._failed(f"answers {answer.status_code}, records wait in {self._spool.path}: {said}")

    def _failed(self, what: str) -> bool:
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures, 10))
        self._failures += 1
        self._retry_at = time.monotonic() + pause
        self._say("away", what)
        return False

    def _say(self, about: str, text: str) -> None:
        """A warning, once for each thing that may go wrong."""
        if about not in self._said:
            self._said.add(about)
            warnings.warn(f"platform {self.url}, job {self.job}: {text}", RuntimeWarning, stacklevel=2)


class _Spool:
    """A file of batches, one a line, locked as long as its process lives."""

    def __init__(self, folder: Path, job: str, path: Path | None = None):
        self.session = uuid.uuid4().hex
        self.path = path or folder / f"{_slug(job)}-{self.session}.jsonl"
        self.job = job
        self._stream: BinaryIO | None = None
        self._seq = self._sent = self._written = 0
        self._place = 0  # bytes up to which it was sent
        self._line = b""

    def write(self, records: list[dict[str, Any]]) -> None:
        """Appends a batch."""
        body = {"job": self.job, "session": self.session, "seq": self._seq + 1, "records": records}
        stream = self._open()
        end = stream.seek(0, os.SEEK_END)
        try:
            stream.write(json.dumps(body).encode() + b"\n")
            stream.flush()
        except OSError:  # half a line would be half a batch
            stream.truncate(end)
            raise
        self._seq += 1
        self._written += 1

    def batches(self) -> Iterator[bytes]:
        """The bodies that were not sent yet; `sent` says that the last one was."""
        if self._stream is None:
            return
        while True:
            self._stream.seek(self._place)
            self._line = self._stream.readline()
            if not self._line.endswith(b"\n"):
                return
            yield self._line

    def sent(self) -> None:
        """The batch that `batches` gave last has arrived."""
        self._place += len(self._line)
        self._sent += 1

    def unsent(self) -> int:
        """How many batches wait."""
        return self._written - self._sent

    def rewind(self) -> None:
        """Empties the file when all of it has arrived and it has grown."""
        if self._stream is not None and self._place > 1 << 20 and not self.unsent():
            self._stream.truncate(0)
            self._place = 0

    def take(self) -> bool:
        """Opens a file that another process has left; False when that one lives."""
        self._stream = self.path.open("r+b")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Gives the lock back."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def remove(self) -> None:
        """All of it has arrived."""
        if self._stream is not None:
            self.path.unlink(missing_ok=True)
        self.close()

    def _open(self) -> BinaryIO:
        if self._stream is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            begun = self.path.with_suffix(".new")
            self._stream = begun.open("w+b")
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            begun.rename(self.path)  # under this name others would take it for a leftover before it is locked
        return self._stream


def leftover_spools(folder: Path, job: str) -> Iterator[_Spool]:
    """The spool files of a job whose processes are gone."""
    for path in sorted(folder.glob(f"{_slug(job)}-*.jsonl"), key=lambda path: path.stat().st_mtime):
        spool = _Spool(folder, job, path)
        if spool.take():
            yield spool


def wait_for_others(folder: Path, job: str, seconds: float) -> None:
    """Waits until no other process sends records of a job."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        free = list(leftover_spools(folder, job))
        for spool in free:
            spool.close()
        if len(free) == len(list(folder.glob(f"{_slug(job)}-*.jsonl"))):
            return
        time.sleep(0.1)


def _slug(job: str) -> str:
    """A job's id as a file may have it; another id never gives the same."""
    name = re.sub(r"[^\w.-]", "_", job)[:80]
    return name if name == job else f"{name}-{uuid.uuid5(uuid.NAMESPACE_URL, job).hex[:12]}"
