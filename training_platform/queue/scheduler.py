"""The queue: which job starts when, and what becomes of those that run.

Higher priority first, among equals the one that was queued first. A job that does not fit yet is not overtaken
(`backfill` lets smaller ones pass). GPU jobs and CPU jobs are two lines. One start at a time: memory is taken late.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from training_platform.queue import local
from training_platform.queue.backend import Backend
from training_platform.queue.outcome import OF_THE_MACHINE, Outcome, outcome
from training_platform.queue.slots import Holders, Slots
from training_platform.queue.store import ACTIVE, Job, Store, now

TICK = 0.25  # seconds
START_SECONDS = 300.0  # a start that takes longer keeps no other job waiting
GONE_SECONDS = 20.0  # after the launcher's end, for its supervisor to write the last state
AGAIN_SECONDS = 20.0  # between two signals to a job that does not stop
FORCE_SECONDS = 30.0  # from SIGTERM to SIGKILL, when asked to
FIRST_WAIT = 30.0  # before a restart; doubled each time
LONGEST_WAIT = 3600.0
log = logging.getLogger(__name__)


class Scheduler:
    """The queue of one server.

    Args:
        store: Its jobs.
        outputs: Folder with the runs.
        kit: Folder with the algorithms' folders.
        slots: What jobs run on.
        backfill: Whether a smaller job may pass one that waits.
        holders: Tells of strange processes on GPUs.
        base: Environment that jobs inherit.
        clock: Seconds from anywhere that never go back.
        backend: What jobs are started on; None: this machine.
    """

    def __init__(
        self,
        store: Store,
        outputs: Path,
        kit: Path,
        slots: Slots,
        backfill: bool = False,
        holders: Holders | None = None,
        base: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        backend: Backend | None = None,
    ):
        self.store, self.outputs, self.kit, self.slots, self.backfill = store, outputs, kit, slots, backfill
        self.holders = holders or Holders()
        self.lent: dict[str, str] = {}  # slot: who has it that is no job
        self.problem = ""  # why the queue does not move, "" when nothing is wrong
        self.first_wait = FIRST_WAIT
        self.gone_seconds = GONE_SECONDS
        self.base = os.environ if base is None else base
        here = local.LocalJobs(store.folder, self.base)
        self.backend: Backend = backend or here
        self._backends: dict[str, Backend] = {one.name: one for one in (here, self.backend)}
        self._clock = clock
        self._since: dict[tuple[str, str], float] = {}  # job and what happened to it: when this server saw it
        self._waits: dict[str, float] = {}  # job: not to be started before
        self._wake = threading.Event()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="queue")

    def start(self) -> None:
        """Begins to look after the jobs, those of earlier servers too."""
        self.backend.open()
        self._thread.start()

    def close(self) -> None:
        """Ends; the jobs go on."""
        self._ends.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.backend.close()

    def wake(self) -> None:
        """Looks at once: something has changed."""
        self._wake.set()

    def folder(self, job: Job) -> Path:
        """Where the lock and launch.log of a job are."""
        return self.store.folder / job.uuid

    def _run(self) -> None:
        while not self._ends.is_set():
            try:
                self.tick()
                self.problem = self.backend.problem or self._strange()
            except Exception as error:  # a full disk, say: the next look may find it better, and /api/health tells
                self.problem = f"{type(error).__name__}: {error}"
                log.exception("the queue")
            self._wake.wait(TICK)
            self._wake.clear()

    def _strange(self) -> str:
        """Jobs that a server with another backend has started run on; only such a server can tell how they are."""
        names = [job.run for job in self.store.in_states(ACTIVE) if self._backend_of(job) is None]
        return (
            f"{', '.join(names[:5])}: started on a Ray cluster; start this server with --ray_address" if names else ""
        )

    def _backend_of(self, job: Job) -> Backend | None:
        return self._backends.get(job.request.get("backend", local.LocalJobs.name))

    def tick(self) -> None:
        """Looks at what runs, then starts what may."""
        for job in self.store.in_states(ACTIVE):
            with self.store.lock:
                fresh = self.store.get(job.uuid)
                if fresh and fresh.state in ACTIVE:
                    self._watch(fresh)
        with self.store.lock:
            self._start_next()

    # ---- what users ask for (the caller holds the store's lock) -------------------------------------------

    def enqueue(self, job: Job) -> None:
        """Puts a job at the end of the queue; of its own free will it begins with no restarts."""
        self._waits.pop(job.uuid, None)
        place = self.store.next_place()
        nothing = {"reason": None, "reason_code": None, "error": None, "exit_status": None, "ended_at": None}
        self.store.change(job.uuid, state="queued", place=place, queued_at=now(), restarts=0, stop_asked="", **nothing)
        self.wake()

    def stop(self, job: Job, force: bool) -> None:
        """Takes a job out of the queue, or ends its run with a checkpoint left behind."""
        if job.state == "queued":
            self._waits.pop(job.uuid, None)
            self.store.change(job.uuid, state="stopped", reason="stopped while it waited", ended_at=now())
            return
        asked = "force" if force or job.stop_asked == "force" else "stop"
        self.store.change(job.uuid, state="stopping", stop_asked=asked)
        self.wake()

    # ---- what runs ---------------------------------------------------------------------------------------

    def _watch(self, job: Job) -> None:
        jobs = self._backend_of(job)
        alive = jobs.is_alive(job) if jobs else None
        if alive is None:
            return
        if alive:
            self._since.pop((job.uuid, "gone"), None)
            self._look_after(job, jobs)
            return
        if not jobs.has_begun(job) and not job.stop_asked:
            # The server was killed before the command was reached, so nothing has begun.
            self.store.change(job.uuid, state="queued", assigned=[], launches=job.launches - 1)
            return
        run_dir = self.outputs / job.run
        run = jobs.run_of(job, run_dir)
        gone = self._clock() - self._since.setdefault((job.uuid, "gone"), self._clock())
        if run.get("state") == "running" and gone < self.gone_seconds and not jobs.lost(job):
            return  # its supervisor ends the trainer first, then writes how it ended
        if run and job.state == "starting":  # it was over before anybody looked
            self.store.change(job.uuid, started_at=str(run.get("started") or now()))
        self._end(job, outcome(job, run, run_dir, jobs))

    def _look_after(self, job: Job, jobs: Backend) -> None:
        """A job whose launcher lives."""
        if job.state == "starting":
            self._since.setdefault((job.uuid, "starting"), self._clock())
            if jobs.run_of(job, self.outputs / job.run):
                self._since.pop((job.uuid, "starting"), None)
                self.store.change(job.uuid, state="running", pid=jobs.pid(job), started_at=now())
        elif job.state == "stopping":
            at = self._clock()
            first = self._since.setdefault((job.uuid, "stop"), at)
            last = self._since.get((job.uuid, "signal"))
            if job.stop_asked == "force" and at - first > FORCE_SECONDS:
                jobs.stop(job, kill=True)
            elif last is None or at - last > AGAIN_SECONDS:
                self._since[job.uuid, "signal"] = at
                jobs.stop(job, kill=False)

    def _end(self, job: Job, found: Outcome) -> None:
        for key in [key for key in self._since if key[0] == job.uuid]:
            del self._since[key]
        ended = {
            "state": found.state,
            "reason": found.reason,
            "reason_code": found.code,
            "error": found.error,
            "exit_status": found.exit_status,
            "assigned": [],
            "ended_at": now(),
        }
        with self.store.transaction():
            self.store.change(job.uuid, **ended)
            if found.code in OF_THE_MACHINE and job.restarts < job.request.get("max_restarts", 0):
                wait = min(LONGEST_WAIT, self.first_wait * 2**job.restarts)
                self._waits[job.uuid] = self._clock() + wait
                place = self.store.next_place()
                self.store.change(
                    job.uuid, state="queued", place=place, queued_at=now(), restarts=job.restarts + 1, ended_at=None
                )
        self.wake()

    # ---- slots that no job has -----------------------------------------------------------------------------

    def lend(self, who: str) -> tuple[str, str] | None:
        """A slot for something that is no job: a GPU, or a place on the CPU where there are none.

        Args:
            who: What has it, as /api/queue shows it.

        Returns:
            Its kind and its name; None when none is free. `take_back` ends it.
        """
        kind = self.slots.lends
        with self.store.lock:
            name = next(iter(self.free(kind)), None)
            if name is None:
                return None
            self.lent[name] = who
        return kind, name

    def take_back(self, name: str) -> None:
        """A lent slot is free again."""
        with self.store.lock:
            self.lent.pop(name, None)
        self.wake()

    # ---- what may start ----------------------------------------------------------------------------------

    def free(self, kind: str) -> list[str]:
        """The slots of a kind that neither a job nor, of GPUs, a strange process has."""
        if self.backend.problem:
            return []  # what there is now is not known
        taken = {*self.lent, *(name for job in self.store.in_states(ACTIVE) for name in job.assigned)}
        left = [name for name in self.slots.names(kind) if name not in taken]
        held = self.holders.of(left) if kind == "gpu" else {}
        return [name for name in left if name not in held]

    def _start_next(self) -> None:
        if any(self._is_slow_to_start(job) for job in self.store.in_states(("starting",))):
            return
        found = [one for kind in ("gpu", "cpu") if (one := self._next(kind))]
        if found:
            self._launch(*min(found, key=lambda one: (-one[0].priority, one[0].place, one[0].number)))

    def _next(self, kind: str) -> tuple[Job, list[str]] | None:
        """The job that may start next of those that need slots of a kind, and its slots."""
        free: list[str] | None = None
        for job in self.store.in_order(kind):
            if self._waits.get(job.uuid, 0.0) > self._clock():
                continue
            free = self.free(kind) if free is None else free
            if chosen := self.slots.choose(free, job.slots[kind], job.request.get("nnodes", 1)):
                return job, chosen
            if not self.backfill or not free:
                return None
        return None

    def _is_slow_to_start(self, job: Job) -> bool:
        since = self._since.setdefault((job.uuid, "starting"), self._clock())
        return self._clock() - since < START_SECONDS

    def _launch(self, job: Job, assigned: list[str]) -> None:
        """Writes down that a job starts, then starts it: a crash in between is seen by `_watch`."""
        run = self._free_name(job) if job.launches == 0 else job.run
        number = job.launches + 1
        self._waits.pop(job.uuid, None)
        request = {**job.request, "backend": self.backend.name}
        values = {"state": "starting", "assigned": assigned, "launches": number, "run": run, "pid": None}
        self.store.change(job.uuid, request=request, **values)
        added = {
            "EXPERIMENT_NAME": run,
            "OUTPUTS_DIR": str(self.outputs),
            "JOB_UUID": job.uuid,
            "JOB_LAUNCH": str(number),
        }
        if (
            "gpu" not in job.slots
        ):  # hiding the GPUs with an empty list instead would end Ray, which counts virtual ones
            added["DEVICE"] = "cpu"
        try:
            local.write_head(self.folder(job), number, now())
            pid = self.backend.start(self.store.get(job.uuid), number, assigned, added, self.kit)
        except OSError as error:
            self._end(job, Outcome("failed", f"train.sh could not be started: {error}", "not_admitted"))
            return
        self.store.change(job.uuid, pid=pid)

    def _free_name(self, job: Job) -> str:
        """The run's name; another one when somebody has made a run of that name meanwhile."""
        return free_name(self.store, self.outputs, job.run) if (self.outputs / job.run).exists() else job.run


def free_name(store: Store, outputs: Path, wanted: str) -> str:
    """A name that no run directory and no job has: the wanted one, or with ``-2``, ``-3``, ... behind."""
    name, number = wanted, 1
    while store.has_run(name) or (outputs / name).exists():
        number += 1
        name = f"{wanted[:90]}-{number}"
    return name
