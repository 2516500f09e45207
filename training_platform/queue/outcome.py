"""How a launch ended: what run.json says of it, else what train.sh printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.run_dir import LOG_FILE
from common.runner.failures import diagnose
from training_platform.queue.backend import Backend
from training_platform.queue.store import Job

KILLED = "the launcher was killed"  # as common/runner/supervisor.py writes it
OF_THE_MACHINE = ("launcher_killed", "died", "machine_restarted")  # worth another try


@dataclass(frozen=True)
class Outcome:
    """A job's end.

    Args:
        state: finished, failed or stopped.
        reason: In words, None when there is nothing to say.
        code: For programs, None when it did not fail.
        error: Cause, fix and line of the log.
        exit_status: Of train.sh, None when it is not known.
    """

    state: str
    reason: str | None = None
    code: str | None = None
    error: dict[str, Any] | None = None
    exit_status: int | None = None


def outcome(job: Job, run: dict[str, Any], run_dir: Path, jobs: Backend) -> Outcome:
    """How a launch that is over has ended.

    Args:
        job: The job.
        run: run.json as this launch has left it, empty when it has written none.
        run_dir: Its run directory.
        jobs: What has run it.
    """
    state, reason, status, lost = run.get("state"), run.get("reason"), jobs.status(job), jobs.lost(job)
    status = run.get("exit_status") if isinstance(run.get("exit_status"), int) else status
    if state == "finished":
        return Outcome("finished", reason, exit_status=status)
    if job.stop_asked:
        return Outcome("stopped", reason if state == "stopped" else "stopped before it could save", exit_status=status)
    if state == "stopped":
        return Outcome("stopped", reason, exit_status=status)
    if not run and lost:
        return Outcome("failed", lost, "machine_restarted", None, status)
    if not run and (refusal := jobs.refusal(job)):
        return Outcome("failed", refusal, "not_admitted", None, status)
    if not run:
        lines = jobs.said(job)
        error = {"cause": lines[0], "fix": None, "line": None, "all": lines} if lines else None
        return Outcome("failed", "; ".join(lines) or "train.sh said nothing", "preflight", error, status)
    if state == "running":
        return Outcome(
            "failed", lost or "it died without a word", "machine_restarted" if lost else "died", None, status
        )
    code = "launcher_killed" if reason == KILLED else "trainer"
    return Outcome("failed", reason, code, _diagnosis(run_dir) if code == "trainer" else None, status)


def _diagnosis(run_dir: Path) -> dict[str, Any] | None:
    try:
        found = diagnose(run_dir / LOG_FILE)
    except OSError:
        return None
    return {"cause": found.cause, "fix": found.fix, "line": found.line}
