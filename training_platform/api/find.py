"""Which job or run an id means. Ids are looked up, never joined to a path."""

from __future__ import annotations

import re
from dataclasses import dataclass

from monitor.plain import plain
from monitor.runs import Row
from monitor.store import Monitor
from training_platform.api.errors import ApiError
from training_platform.queue.store import Job, Store

AGAIN = 0.1  # seconds; what is not found may have begun since the last look at the folder
_NAME = re.compile(r"\w[\w.-]{0,99}")


@dataclass(frozen=True)
class Found:
    """A job of the database, a run, or both.

    Args:
        job: None for a run that the platform did not start.
        row: None for a job that has no run directory yet.
        run: Name of the run directory.
    """

    job: Job | None
    row: Row | None
    run: str


def same_name(text: str) -> bool:
    """Whether a text can be the name of a run directory."""
    return bool(_NAME.fullmatch(text)) and ".." not in text


def find(store: Store, monitor: Monitor, uuid: str) -> Found:
    """Looks a job up by its id, its run's name, or the id that a run reports under.

    Raises:
        ApiError: 404 when there is none.
    """
    job = store.get(uuid) or store.with_run(uuid)
    if job:
        is_there = bool(job.launches) and _is_there(monitor, job.run)
        row = monitor.row(job.run) or (monitor.rows(AGAIN).get(job.run) if is_there else None)
        return Found(job, row, job.run)
    row = _run(monitor.rows(), uuid) or _run(monitor.rows(0.0 if _is_there(monitor, uuid) else AGAIN), uuid)
    if row is None or row.kind != "run":
        raise ApiError(404, "no_job", f"{plain(uuid)[:200]!r}: no such job or run")
    return Found(store.get(str(row.run.get("job_uuid"))), row, row.id)


def _is_there(monitor: Monitor, name: str) -> bool:
    return same_name(name) and (monitor.root / name).is_dir()


def _run(rows: dict[str, Row], uuid: str) -> Row | None:
    return rows.get(uuid) or next((row for row in rows.values() if row.run.get("job_uuid") == uuid), None)
