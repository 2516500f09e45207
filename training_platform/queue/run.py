"""run.json of a job's run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.run_dir import read_run
from training_platform.queue.store import Job


def run_of_job(job: Job, run_dir: Path) -> dict[str, Any]:
    """run.json, when a launch of this job has written it; else empty."""
    try:
        run = read_run(run_dir)
    except (OSError, ValueError):
        return {}
    return run if run.get("job_uuid") == job.uuid else {}
