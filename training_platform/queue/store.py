"""What no run directory can hold: requests, their order, and what happened to them. One SQLite file, one server.

The file is locked as long as the server lives (``locking_mode=EXCLUSIVE``), so a second server on the same outputs is
refused, and the write-ahead log needs no shared memory. A server that is killed leaves every committed change behind.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from common.small_files import read_json

WAITING = ("created", "queued")
ACTIVE = ("starting", "running", "stopping")
ENDED = ("finished", "failed", "stopped")
DATABASE, SERVER = "platform.db", "server.json"
VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT UNIQUE NOT NULL, state TEXT NOT NULL, request TEXT NOT NULL,
  run TEXT UNIQUE NOT NULL, slots TEXT NOT NULL, priority INTEGER NOT NULL, place INTEGER NOT NULL DEFAULT 0,
  launches INTEGER NOT NULL DEFAULT 0, pid INTEGER, assigned TEXT NOT NULL DEFAULT '[]',
  reason TEXT, reason_code TEXT, error TEXT, exit_status INTEGER, restarts INTEGER NOT NULL DEFAULT 0,
  stop_asked TEXT NOT NULL DEFAULT '', parent TEXT, key TEXT UNIQUE, created_at TEXT NOT NULL, queued_at TEXT,
  started_at TEXT, ended_at TEXT);
CREATE INDEX IF NOT EXISTS jobs_of_a_state ON jobs (state);
CREATE INDEX IF NOT EXISTS jobs_in_order ON jobs (state, priority DESC, place, number);
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, time TEXT NOT NULL, type TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_of_a_job ON events (job, id);
CREATE TABLE IF NOT EXISTS sessions (
  job TEXT NOT NULL, session TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (job, session));
CREATE TABLE IF NOT EXISTS files (
  job TEXT NOT NULL, name TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (job, name));
CREATE TABLE IF NOT EXISTS places (last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ends (
  state TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (state, reason));
"""


class StoreInUseError(RuntimeError):
    """Another server has the outputs."""


@dataclass
class Job:
    """One job as the database has it; times as in run.json.

    Args:
        number: Grows with each job.
        uuid: Its id.
        state: created, queued, starting, running, stopping, finished, failed or stopped.
        request: As it was asked for.
        run: Name of its run directory.
        slots: How many of what it needs: ``{"gpu": 2}`` or ``{"cpu": 1}``.
        priority: Higher starts first.
        place: In the queue among equal priorities, lower first; 0 before it was queued.
        launches: How often its train.sh was started, or was about to be.
        pid: Of the last start, which is the launcher's too.
        assigned: Names of the slots that it has.
        reason: Why it ended so, None when there is nothing to say.
        reason_code: preflight, trainer, launcher_killed, died, machine_restarted, or None.
        error: Cause, fix and line of the log, when it failed.
        exit_status: Of train.sh, where it is known.
        restarts: How often it was started again by itself.
        stop_asked: "", "stop" or "force".
        parent: The job whose checkpoint it goes on from.
        key: The Idempotency-Key that it was created with.
    """

    number: int
    uuid: str
    state: str
    request: dict[str, Any]
    run: str
    slots: dict[str, int]
    priority: int
    place: int
    launches: int
    pid: int | None
    assigned: list[str]
    reason: str | None
    reason_code: str | None
    error: dict[str, Any] | None
    exit_status: int | None
    restarts: int
    stop_asked: str
    parent: str | None
    key: str | None
    created_at: str
    queued_at: str | None
    started_at: str | None
    ended_at: str | None


@dataclass(frozen=True)
class Wanted:
    """Which jobs are looked for; what is empty is not asked for.

    Args:
        state: Their state.
        algorithm: Their folder.
        owner: Whose they are.
        text: Something in the name, the description or the id, in small or large letters.
    """

    state: str | None = None
    algorithm: str = ""
    owner: str = ""
    text: str = ""

    def conditions(self) -> tuple[tuple[str, str | None], ...]:
        """SQL, and its value."""
        texts = "run || ' ' || coalesce(json_extract(request, '$.asked.description'), '') || ' ' || uuid"
        return (
            ("state = ?", self.state),
            ("json_extract(request, '$.folder') = ?", self.algorithm),
            ("json_extract(request, '$.asked.owner') = ?", self.owner),
            (f"instr(folded({texts}), ?)", self.text.casefold()),
        )


_NAMES = [one.name for one in fields(Job)]
_JSON = ("request", "slots", "assigned", "error")


def now() -> str:
    """The time as run.json has it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Store:
    """The database of one server.

    Args:
        folder: Where it lies; made when it is not there.

    Raises:
        StoreInUseError: If another server has it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.lock = threading.RLock()
        self._depth = 0
        self._db = sqlite3.connect(folder / DATABASE, timeout=0.2, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.create_function("folded", 1, str.casefold, deterministic=True)
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("BEGIN EXCLUSIVE")
            self._db.execute(f"PRAGMA user_version={VERSION}")
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._db.close()
            if "locked" not in str(error):
                raise
            raise StoreInUseError(f"{folder.parent} is served by {_server(folder)}; stop that one first") from None
        self._db.executescript(_TABLES)

    def close(self) -> None:
        """Gives the file back."""
        with self.lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes within or none; the outermost one counts."""
        with self.lock:
            if self._depth:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    # ---- jobs --------------------------------------------------------------------------------------------

    def add(self, uuid: str, **values: Any) -> Job:
        """Adds a job in the state ``created``.

        Raises:
            sqlite3.IntegrityError: If the uuid, the run or the key is taken.
        """
        values = {"uuid": uuid, "state": "created", "created_at": now(), **values}
        with self.transaction():
            columns = ", ".join(values)
            marks = ", ".join("?" * len(values))
            self._db.execute(f"INSERT INTO jobs ({columns}) VALUES ({marks})", _encoded(values))
            self.event(uuid, "state", {"state": values["state"], "reason": None, "reason_code": None})
        return self.get(uuid)

    def get(self, uuid: str) -> Job | None:
        """A job by its id."""
        return next(iter(self._jobs("uuid = ?", uuid)), None)

    def with_key(self, key: str) -> Job | None:
        """The job that an Idempotency-Key has made."""
        return next(iter(self._jobs("key = ?", key)), None)

    def with_run(self, run: str) -> Job | None:
        """The job of a run directory."""
        return next(iter(self._jobs("run = ?", run)), None)

    def in_states(self, states: tuple[str, ...]) -> list[Job]:
        """The jobs in some states, oldest first."""
        return self._jobs(f"state IN ({', '.join('?' * len(states))}) ORDER BY number", *states)

    def in_order(self, kind: str = "") -> Iterator[Job]:
        """The queue: higher priority first, among equals the one that was queued first.

        It is read as far as it is asked for, as thousands may wait; the caller holds the lock meanwhile.

        Args:
            kind: Only those that need slots of it.
        """
        where = "state = 'queued' AND slots LIKE ? ORDER BY priority DESC, place, number"
        return map(_job, self._db.execute(f"SELECT * FROM jobs WHERE {where}", (_needs(kind),)))

    def position(self, job: Job) -> int:
        """Of a queued job among those that need slots of the same kind, from 1."""
        (kind, _), *_ = job.slots.items()
        ahead = "priority > ? OR priority = ? AND (place < ? OR place = ? AND number < ?)"
        query = f"SELECT COUNT(*) FROM jobs WHERE state = 'queued' AND slots LIKE ? AND ({ahead})"
        values = (job.priority, job.priority, job.place, job.place, job.number)
        return self._rows(query, _needs(kind), *values)[0][0] + 1

    def listed(self, limit: int, before: int | None = None, wanted: Wanted | None = None) -> list[Job]:
        """Jobs, newest first.

        Args:
            limit: How many at most.
            before: Only those with a smaller number.
            wanted: Only such.
        """
        where, values = ["1"], []
        for condition, value in (("number < ?", before), *(wanted or Wanted()).conditions()):
            if value not in (None, ""):
                where, values = [*where, condition], [*values, value]
        return self._jobs(f"{' AND '.join(where)} ORDER BY number DESC LIMIT ?", *values, limit)

    def has_run(self, run: str) -> bool:
        """Whether a run directory belongs to a job."""
        return bool(self._rows("SELECT 1 FROM jobs WHERE run = ?", run))

    def runs(self) -> set[str]:
        """Names of the run directories that belong to jobs."""
        return {row[0] for row in self._rows("SELECT run FROM jobs")}

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        return dict(self._rows("SELECT state, COUNT(*) FROM jobs GROUP BY state"))

    def census(self) -> dict[tuple[str, str], int]:
        """How many jobs are in each state, by algorithm."""
        query = "SELECT state, json_extract(request, '$.algorithm'), COUNT(*) FROM jobs GROUP BY 1, 2"
        return {(state, algorithm or ""): count for state, algorithm, count in self._rows(query)}

    def ends(self) -> dict[tuple[str, str], int]:
        """How often jobs have ended in a state for a reason; deleted ones and earlier launches count too."""
        return {(state, reason): count for state, reason, count in self._rows("SELECT * FROM ends")}

    def waits(self) -> dict[str, list[float]]:
        """Seconds in the queue of the jobs that were started, by algorithm."""
        found: dict[str, list[float]] = {}
        query = "SELECT json_extract(request, '$.algorithm'), queued_at, started_at FROM jobs"
        for algorithm, queued, started in self._rows(f"{query} WHERE queued_at IS NOT NULL AND started_at IS NOT NULL"):
            seconds = (datetime.fromisoformat(started) - datetime.fromisoformat(queued)).total_seconds()
            if seconds >= 0:  # one that waits again has the beginning of its launch before
                found.setdefault(algorithm or "", []).append(seconds)
        return found

    def change(self, uuid: str, **values: Any) -> None:
        """Sets columns of a job; a new state becomes an event too."""
        with self.transaction():
            before = self.get(uuid)
            assert before is not None, uuid
            marks = ", ".join(f"{name} = ?" for name in values)
            self._db.execute(f"UPDATE jobs SET {marks} WHERE uuid = ?", (*_encoded(values), uuid))
            if "state" in values and values["state"] != before.state:
                job = self.get(uuid)
                data = {"state": job.state, "reason": job.reason, "reason_code": job.reason_code}
                self.event(uuid, "state", data)
                if job.state in ENDED:
                    self._db.execute(
                        "INSERT INTO ends VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
                        (job.state, job.reason_code or ""),
                    )

    def next_place(self) -> int:
        """A place behind all that were ever given: a clock may be set back, this does not go back."""
        with self.transaction():
            row = self._db.execute("SELECT last FROM places").fetchone()
            last = (row["last"] if row else 0) + 1
            self._db.execute("DELETE FROM places")
            self._db.execute("INSERT INTO places VALUES (?)", (last,))
        return last

    def delete(self, uuid: str) -> None:
        """Forgets a job and all about it."""
        with self.transaction():
            self._db.execute("DELETE FROM jobs WHERE uuid = ?", (uuid,))
            for table in ("events", "sessions", "files"):
                self._db.execute(f"DELETE FROM {table} WHERE job = ?", (uuid,))

    # ---- events ------------------------------------------------------------------------------------------

    def event(self, job: str, kind: str, data: dict[str, Any]) -> None:
        """Notes what happened to a job."""
        with self.transaction():
            row = (job, now(), kind, json.dumps(data))
            self._db.execute("INSERT INTO events (job, time, type, data) VALUES (?, ?, ?, ?)", row)

    def events(self, after: int, job: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
        """What happened after an event, oldest first, to one job or to all."""
        where, values = ("AND job = ?", (after, job, limit)) if job else ("", (after, limit))
        rows = self._rows(f"SELECT * FROM events WHERE id > ? {where} ORDER BY id LIMIT ?", *values)
        return [{**dict(row), "data": json.loads(row["data"])} for row in rows]

    def last_event(self) -> int:
        """The newest event's id, 0 before the first."""
        return self._rows("SELECT COALESCE(MAX(id), 0) FROM events")[0][0]

    # ---- records that come from outside ------------------------------------------------------------------

    def seq(self, job: str, session: str) -> int:
        """The number of the last batch that was kept of a session, 0 before the first."""
        rows = self._rows("SELECT seq FROM sessions WHERE job = ? AND session = ?", job, session)
        return rows[0][0] if rows else 0

    def set_seq(self, job: str, session: str, seq: int) -> None:
        """Notes that a batch is kept."""
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)", (job, session, seq))

    def file_bytes(self, job: str) -> dict[str, int]:
        """Bytes of each file of a job that kept batches end at; what is behind them belongs to none."""
        return dict(self._rows("SELECT name, bytes FROM files WHERE job = ?", job))

    def set_file_bytes(self, job: str, name: str, size: int) -> None:
        """Notes where a file ends."""
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (job, name, size))

    # ---- reading -----------------------------------------------------------------------------------------

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self.lock:
            return self._db.execute(query, values).fetchall()

    def _jobs(self, where: str, *values: Any) -> list[Job]:
        return [_job(row) for row in self._rows(f"SELECT * FROM jobs WHERE {where}", *values)]


def _needs(kind: str) -> str:
    """What the slots of a job that needs a kind look like."""
    return f'{{"{kind}"%' if kind else "%"


def _job(row: sqlite3.Row) -> Job:
    values = {name: row[name] for name in _NAMES}
    for name in _JSON:
        values[name] = json.loads(values[name]) if values[name] is not None else None
    return Job(**values)


def _encoded(values: dict[str, Any]) -> list[Any]:
    return [json.dumps(value) if name in _JSON and value is not None else value for name, value in values.items()]


def _server(folder: Path) -> str:
    """Who has the database, as its server has written it."""
    try:
        found = read_json(folder / SERVER)
        return f"process {found['pid']} on {found['host']} at {found['url']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
