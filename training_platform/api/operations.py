"""What is done with a run's checkpoints: merged, averaged, pruned, verified, by the kit's own command in a process.

Operations are kept as long as the server lives; what they make is in the run directory.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid as ids
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from common.checkpoints.layout import checkpoints_of
from common.files import ROOT
from training_platform.api.errors import ApiError
from training_platform.api.jobs import Jobs
from training_platform.api.views import View
from training_platform.queue.request import Count, Whole
from training_platform.queue.store import ACTIVE, now

KEPT = 1_000  # operations
SAID = 16 << 10  # characters of what a command has printed
Type = Literal["bfloat16", "float16", "float32"]


class Asked(BaseModel):
    """What is asked for; every field may be left out."""

    model_config = ConfigDict(extra="forbid")


class Merge(Asked):
    """The newest complete checkpoint, or that of a step, becomes a Hugging Face folder."""

    step: Count | None = None
    dtype: Type = "bfloat16"


class Average(Asked):
    """The mean of the newest so many checkpoints becomes a Hugging Face folder."""

    last: Whole | None = None
    dtype: Type = "bfloat16"


class Prune(Asked):
    """All but the newest so many, those of some steps, and the best by validation are removed."""

    keep: Whole = 1
    keep_steps: list[Count] = Field(default=[], max_length=1000)
    keep_best: bool = True


class Verify(Asked):
    """Every byte is read."""


class OperationView(View):
    """An operation: running, finished or failed; what its command has printed, and where its result is."""

    id: str
    kind: str
    job: str
    state: str
    exit_status: int | None
    text: str
    result: str | None
    started_at: str
    ended_at: str | None


@dataclass
class Operation:
    """One command that runs, or has run."""

    id: str
    kind: str
    job: str
    run: str
    result: Path | None
    process: subprocess.Popen
    text: str = ""
    started_at: str = field(default_factory=now)
    ended_at: str | None = None

    def view(self) -> OperationView:
        """As the API shows it."""
        status = self.process.returncode if self.ended_at else None
        state = "running" if status is None else "failed" if status else "finished"
        result = str(self.result) if state == "finished" and self.result else None
        return OperationView(
            id=self.id,
            kind=self.kind,
            job=self.job,
            state=state,
            exit_status=status,
            text=self.text,
            result=result,
            started_at=self.started_at,
            ended_at=self.ended_at,
        )


class Operations:
    """Starts them, and knows them.

    Args:
        jobs: Looks ids up.
    """

    def __init__(self, jobs: Jobs):
        self.jobs = jobs
        self._lock = threading.Lock()
        self._known: dict[str, Operation] = {}

    def merge(self, uuid: str, asked: Merge) -> OperationView:
        """A model of one checkpoint."""
        folder = self._folder(uuid)
        if asked.step is None:
            return self._start(uuid, "merge", folder / "model", [str(folder), "--dtype", asked.dtype])
        steps = {one.step: one.path for one in checkpoints_of(folder)}
        if asked.step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise ApiError(404, "no_checkpoint", f"step={asked.step}: there are checkpoints of steps {there}")
        made = folder / f"model_step_{asked.step}"
        return self._start(uuid, "merge", made, [str(steps[asked.step]), "--dtype", asked.dtype])

    def average(self, uuid: str, asked: Average) -> OperationView:
        """A model of several checkpoints."""
        folder = self._folder(uuid)
        last = ["--last", str(asked.last)] if asked.last else []
        return self._start(uuid, "average", folder / "model_average", [str(folder), *last, "--dtype", asked.dtype])

    def prune(self, uuid: str, asked: Prune) -> OperationView:
        """Fewer checkpoints; not of a run that may write or need them."""
        found = self.jobs.found(uuid)
        state = found.job.state if found.job else found.row.state
        if state in (*ACTIVE, "queued", "live", "silent"):
            raise ApiError(409, "wrong_state", f"{uuid} is {state}; stop it first")
        more = ["--keep-steps", *map(str, asked.keep_steps)] if asked.keep_steps else []
        more += ["--keep-best", "val_score"] if asked.keep_best else []
        return self._start(uuid, "prune", None, [str(self._folder(uuid)), "--keep", str(asked.keep), *more, "--yes"])

    def verify(self, uuid: str) -> OperationView:
        """What is torn or missing."""
        return self._start(uuid, "verify", None, [str(self._folder(uuid))])

    def one(self, name: str) -> OperationView:
        """An operation by its id.

        Raises:
            ApiError: 404 when this server has not started one of that id.
        """
        if name not in self._known:
            raise ApiError(404, "no_operation", f"{name[:100]!r}: this server has started no such operation")
        return self._known[name].view()

    def all(self) -> list[OperationView]:
        """The newest first."""
        return [one.view() for one in reversed(list(self._known.values()))]

    def _folder(self, uuid: str) -> Path:
        found = self.jobs.found(uuid)
        if found.row is None or found.row.kind != "run":
            raise ApiError(409, "wrong_state", f"{uuid} has no run directory yet")
        return found.row.path

    def _start(self, uuid: str, kind: str, result: Path | None, arguments: list[str]) -> OperationView:
        """One at a time for a run: two would write the same files."""
        run = self.jobs.found(uuid).run
        command = [sys.executable, "-m", "common.checkpoints", kind, *arguments]
        with self._lock:
            if any(one.run == run and one.ended_at is None for one in self._known.values()):
                raise ApiError(409, "busy", f"{uuid}: another operation of this run is under way")
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            made = Operation(ids.uuid4().hex, kind, uuid, run, result, process)
            self._known[made.id] = made
            for old in [one.id for one in self._known.values() if one.ended_at][: max(0, len(self._known) - KEPT)]:
                del self._known[old]
        threading.Thread(target=_follow, args=(made,), daemon=True).start()
        return made.view()


def _follow(made: Operation) -> None:
    """Keeps the end of what a command prints."""
    for line in made.process.stdout:
        made.text = (made.text + line.decode("utf-8", "replace"))[-SAID:]
    made.process.wait()
    made.ended_at = now()


def routes(operations: Operations) -> APIRouter:
    """Where they are asked for."""
    router = APIRouter(tags=["operations"])

    @router.post("/api/jobs/{uuid}/merge", status_code=202, summary="Make a Hugging Face folder of a checkpoint")
    def merge(uuid: str, asked: Merge | None = None) -> OperationView:
        return operations.merge(uuid, asked or Merge())

    @router.post("/api/jobs/{uuid}/average", status_code=202, summary="Make one model of several checkpoints")
    def average(uuid: str, asked: Average | None = None) -> OperationView:
        return operations.average(uuid, asked or Average())

    @router.post("/api/jobs/{uuid}/prune", status_code=202, summary="Remove old checkpoints")
    def prune(uuid: str, asked: Prune | None = None) -> OperationView:
        return operations.prune(uuid, asked or Prune())

    @router.post("/api/jobs/{uuid}/verify", status_code=202, summary="Read every byte of the checkpoints")
    def verify(uuid: str, asked: Verify | None = None) -> OperationView:
        return operations.verify(uuid)

    @router.get("/api/operations", summary="Operations of this server, newest first")
    def every() -> list[OperationView]:
        return operations.all()

    @router.get("/api/operations/{name}", summary="An operation: its state, what it printed, its result")
    def one(name: str) -> OperationView:
        return operations.one(name)

    return router
