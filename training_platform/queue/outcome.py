"""How a launch ended: what run.json says of it, else what train.sh printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.run_dir import LOG_FILE, read_run
from common.runner.failures import diagnose
from training_platform.queue import local
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


def run_of(job: Job, run_dir: Path, pid: int | None) -> dict[str, Any]:
    """run.json, when it was written by this launch of this job; else empty."""
    try:
        run = read_run(run_dir)
    except (OSError, ValueError):
        return {}
    return run if pid is not None and run.get("pid") == pid and run.get("job_uuid") == job.uuid else {}


def outcome(job: Job, run_dir: Path, folder: Path, status: int | None, restarted: bool) -> Outcome:
    """How a launch whose process is gone has ended.

    Args:
        job: The job.
        run_dir: Its run directory.
        folder: Where launch.log is.
        status: Exit status of train.sh, None when it is not known.
        restarted: The machine was started after the job was.
    """
    run = run_of(job, run_dir, local.pid_of(folder, job.launches))
    state, reason = run.get("state"), run.get("reason")
    status = run.get("exit_status") if isinstance(run.get("exit_status"), int) else status
    if state == "finished":
        return Outcome("finished", reason, exit_status=status)
    if job.stop_asked:
        return Outcome("stopped", reason if state == "stopped" else "stopped before it could save", exit_status=status)
    if state == "stopped":
        return Outcome("stopped", reason, exit_status=status)
    if not run and restarted:
        return Outcome("failed", "the machine was restarted", "machine_restarted", None, status)
    if not run:
        lines = local.said(folder)
        error = {"cause": lines[0], "fix": None, "line": None, "all": lines} if lines else None
        return Outcome("failed", "; ".join(lines) or "train.sh said nothing", "preflight", error, status)
    if state == "running":
        code = "machine_restarted" if restarted else "died"
        said = "the machine was restarted" if restarted else "it died without a word"
        return Outcome("failed", said, code, None, status)
    code = "launcher_killed" if reason == KILLED else "trainer"
    return Outcome("failed", reason, code, _diagnosis(run_dir) if code == "trainer" else None, status)


def _diagnosis(run_dir: Path) -> dict[str, Any] | None:
    try:
        found = diagnose(run_dir / LOG_FILE)
    except OSError:
        return None
    return {"cause": found.cause, "fix": found.fix, "line": found.line}
