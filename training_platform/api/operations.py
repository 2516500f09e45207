"""What is done with a run's checkpoints: merged, averaged, pruned, verified, selected, evaluated.

The kit's own commands do it, in processes; what they make is in the run directory.
"""

from __future__ import annotations

import uuid as ids
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from common.checkpoints.layout import checkpoints_of
from common.checkpoints.selected import select
from training_platform.api.errors import ApiError
from training_platform.api.jobs import Jobs, stamp
from training_platform.api.processes import OperationView, Processes
from training_platform.api.views import View
from training_platform.queue.request import Count, Text, Whole
from training_platform.queue.store import ACTIVE

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


class Evaluate(Asked):
    """A file of questions is answered and scored; the result is an Excel file."""

    input: Text | None = Field(None, description="file on the server; left out: the run's own validation data")
    step: Count | None = Field(None, description="left out: the selected checkpoint, else the newest")
    compare: list[Text] = Field(default=[], max_length=10, description="runs, models, or demo")
    greedy: bool = False
    n: Annotated[int, Field(strict=True, ge=1, le=1000, description="answers to each question")] = 1
    limit: Whole | None = Field(None, description="only so many questions")
    max_new_tokens: Whole | None = None


class Select(Asked):
    """The checkpoint that evaluations and test.sh take from now on; null: the newest again."""

    step: Count | None


class Selected(View):
    """What is selected."""

    step: int | None
    path: str | None


class Operations:
    """What the routes do.

    Args:
        jobs: Looks ids up.
    """

    def __init__(self, jobs: Jobs):
        self.jobs, self.processes = jobs, Processes()

    def merge(self, uuid: str, asked: Merge) -> OperationView:
        """A model of one checkpoint."""
        folder = self._folder(uuid)
        if asked.step is None:
            return self._start(uuid, "merge", folder / "model", [str(folder), "--dtype", asked.dtype])
        made = folder / f"model_step_{asked.step}"
        return self._start(uuid, "merge", made, [str(_checkpoint(folder, asked.step)), "--dtype", asked.dtype])

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

    def evaluate(self, uuid: str, asked: Evaluate) -> OperationView:
        """Answers in an Excel file; takes a GPU as a job does, or a place on the CPU."""
        run, folder = self.jobs.found(uuid).run, self._folder(uuid)
        model = folder if asked.step is None else _checkpoint(folder, asked.step)
        made = folder / "evaluation" / f"{stamp()}-{ids.uuid4().hex[:6]}.xlsx"
        command = ["common.test_model", "--batch", f"--model_path={model}", f"--output_file={made}", *_options(asked)]
        scheduler = self.jobs.scheduler
        slot = scheduler.lend(f"evaluation of {run}")
        if slot is None:
            fix = "try again when a job has ended"
            if scheduler.backend.name == "ray":
                fix = "it runs on the server's CPU, with --cpu_jobs; on a GPU of the cluster use test.sh"
            raise ApiError(409, "busy", f"no GPU and no place on the CPU is free; {fix}")
        kind, name = slot
        environment = {"OUTPUTS_DIR": str(scheduler.outputs)}
        if kind == "gpu":
            environment["CUDA_VISIBLE_DEVICES"] = name
        else:
            command.append("--device=cpu")
        about = ("evaluate", uuid, run)
        try:
            return self.processes.start(about, made, command, environment, lambda: scheduler.take_back(name))
        except BaseException:
            scheduler.take_back(name)
            raise

    def select(self, uuid: str, step: int | None) -> Selected:
        """Chooses a checkpoint."""
        try:
            chosen = select(self._folder(uuid), step)
        except FileNotFoundError as error:
            raise ApiError(404, "no_checkpoint", str(error)) from None
        except ValueError as error:
            raise ApiError(409, "not_complete", str(error)) from None
        return Selected(step=step, path=str(chosen.path) if chosen else None)

    def _start(self, uuid: str, kind: str, result: Path | None, arguments: list[str]) -> OperationView:
        command = ["common.checkpoints", kind, *arguments]
        return self.processes.start((kind, uuid, self.jobs.found(uuid).run), result, command, {})

    def _folder(self, uuid: str) -> Path:
        found = self.jobs.found(uuid)
        if found.row is None or found.row.kind != "run":
            raise ApiError(409, "wrong_state", f"{uuid} has no run directory yet")
        return found.row.path


def _options(asked: Evaluate) -> list[str]:
    """As test.sh takes them.

    Raises:
        ApiError: 422 for a text that would be taken for an option.
    """
    for name, values in (("input", [asked.input or ""]), ("compare", asked.compare)):
        if wrong := [text for text in values if text.startswith("-")]:
            raise ApiError(422, "invalid", f"{name}: {wrong[0][:100]!r} begins with a dash; write ./ before it")
    given = {"input_file": asked.input, "n": asked.n, "limit": asked.limit, "max_new_tokens": asked.max_new_tokens}
    made = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return made + ["--greedy"] * asked.greedy + (["--compare", *asked.compare] if asked.compare else [])


def _checkpoint(folder: Path, step: int) -> Path:
    """The checkpoint of a step."""
    steps = {one.step: one.path for one in checkpoints_of(folder)}
    if step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise ApiError(404, "no_checkpoint", f"step={step}: there are checkpoints of steps {there}")
    return steps[step]


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

    @router.post("/api/jobs/{uuid}/evaluate", status_code=202, summary="Answers and scores in an Excel file")
    def evaluate(uuid: str, asked: Evaluate | None = None) -> OperationView:
        return operations.evaluate(uuid, asked or Evaluate())

    @router.post("/api/jobs/{uuid}/select", summary="Choose the checkpoint that evaluations and test.sh take")
    def chosen(uuid: str, asked: Select) -> Selected:
        return operations.select(uuid, asked.step)

    @router.get("/api/operations", summary="Operations of this server, newest first")
    def every() -> list[OperationView]:
        return operations.processes.all()

    @router.get("/api/operations/{name}", summary="An operation: its state, what it printed, its result")
    def one(name: str) -> OperationView:
        return operations.processes.one(name)

    @router.post("/api/operations/{name}/stop", status_code=202, summary="End an operation")
    def stop(name: str) -> OperationView:
        return operations.processes.stop(name)

    @router.get("/api/operations/{name}/file", summary="What an evaluation has made", response_class=FileResponse)
    def file(name: str) -> FileResponse:
        made = operations.processes.file(name)
        return FileResponse(made, filename=made.name)

    return router
