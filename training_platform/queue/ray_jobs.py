"""Jobs on a Ray cluster, through Ray's own job submission (``ray job submit``).

Ray runs a job; the queue alone decides when, because Ray keeps no order. A job on one machine reserves its GPUs there
and its train.sh starts its own Ray within them. A job on several machines joins the cluster, and Ray places it. A
thread speaks with the cluster; the queue reads what it has seen.

The id of a submission is that of the job and the number of the start, so that one which was sent twice is taken once.
Everything in a submission can be read on Ray's page: no secret is in it, only knobs.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training_platform.queue import local
from training_platform.queue.ray_cluster import Client, Machine, address_of
from training_platform.queue.run import run_of_job
from training_platform.queue.store import Job

POLL = 1.0  # seconds between two looks
FIRST_SECONDS = 15.0  # for a Ray that was just started
STALE = 60.0  # a look that is older tells nothing any more
LOG_SECONDS = 2.0, 15.0  # between two looks at what a train.sh prints, before its run has begun and after
STOP_SECONDS = "60"  # from SIGTERM to SIGKILL; Ray's 3 s are too few for a run to write its state
ALIVE = ("PENDING", "RUNNING")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """One look at the cluster.

    Args:
        at: When it was begun.
        machines: Those that live.
        jobs: Id of a submission -> what Ray says of it.
    """

    at: float
    machines: list[Machine]
    jobs: dict[str, Any]


@dataclass
class Followed:
    """What is printed by a job that is looked at."""

    folder: Path
    starting: bool = True
    looked: float = field(default=float("-inf"))


class RayJobs:
    """Jobs on a cluster, as the queue asks for them (`backend.Backend`).

    Args:
        client: Of the cluster's job server.
        folder: With a folder for each job.
        clock: Seconds from anywhere that never go back.
    """

    name = "ray"

    def __init__(self, client: Client, folder: Path, clock: Callable[[], float] = time.monotonic):
        self.folder = folder
        self._client, self._clock = client, clock
        self._lock = threading.Lock()
        self._seen: Seen | None = None
        self._failed = ""
        self._wanted: dict[str, dict[str, Any] | None] = {}  # to be submitted; None: it was, and is not seen yet
        self._refused: dict[str, str] = {}
        self._stops: set[str] = set()
        self._followed: dict[str, Followed] = {}
        self._read: set[str] = set()  # jobs that are over and whose log is here to its end
        self._wake, self._ends = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="ray")

    def open(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End; the jobs go on."""
        self._ends.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(POLL)  # it may wait for an answer, and nothing is lost with it

    @property
    def problem(self) -> str:
        """Why the cluster's state is not known, "" when it is."""
        if self._current():
            return ""
        return f"the Ray cluster does not answer: {self._failed or 'not asked yet'}"

    def machines(self) -> list[Machine]:
        """Of the cluster, as they were seen last."""
        return self._seen.machines if self._seen else []

    def _current(self) -> Seen | None:
        seen = self._seen
        return seen if seen and self._clock() - seen.at < STALE else None

    # ---- what the queue asks for (no call waits for the network) --------------------------------------------

    def start(self, job: Job, number: int, assigned: Sequence[str], added: Mapping[str, str], kit: Path) -> None:
        """Have a job submitted."""
        folder = job.request["folder"]
        pairs = [f"{name}={value}" for name, value in {**job.request["environment"], **added}.items()]
        command = ["exec", "env", *pairs, f"./{folder}/train.sh", *job.request["overrides"]]
        options: dict[str, Any] = {"metadata": {"job": job.uuid, "run": job.run}}
        # A run on several machines reserves its GPUs itself, and Ray would take those of its command from it.
        if "gpu" in job.slots and job.request.get("nnodes", 1) == 1:
            options["entrypoint_num_gpus"] = len(assigned)
            options["entrypoint_resources"] = {f"node:{address_of(assigned[0])}": 0.001}
        options["runtime_env"] = {"working_dir": str(kit), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": STOP_SECONDS}}
        with self._lock:
            self._wanted[_id(job, number)] = {"entrypoint": shlex.join(command), **options}
        self._wake.set()

    def is_alive(self, job: Job) -> bool | None:
        """Whether Ray has a job that is not over, or is about to get it; None when Ray does not answer."""
        name = _id(job)
        with self._lock:
            if name in self._wanted:
                return True
            if name in self._refused:
                return False
            if (seen := self._current()) is None:
                return None
            found = seen.jobs.get(name)
            if found is None or name in self._read:
                return False
            self._followed.setdefault(name, Followed(self.folder / job.uuid)).starting = job.state == "starting"
            return True if _state(found) in ALIVE else None  # None: over, and the end of its log comes first

    def has_begun(self, job: Job) -> bool:
        """Whether a submission was ever taken; one that runs was, also when Ray has forgotten it."""
        return self._details(job) is not None or _id(job) in self._refused or job.state != "starting"

    def refusal(self, job: Job) -> str:
        """Why Ray has not taken or not started a submission."""
        found = self._details(job)
        if found is not None and found.driver_exit_code is None and _state(found) == "FAILED":
            return f"Ray has not started it: {(found.message or 'it does not say why').strip().splitlines()[0][:500]}"
        return self._refused.get(_id(job), "")

    def status(self, job: Job) -> int | None:
        """Exit status of train.sh."""
        found = self._details(job)
        return found.driver_exit_code if found is not None else None

    def pid(self, job: Job) -> int | None:
        """None: its processes are elsewhere."""
        return None

    def run_of(self, job: Job, run_dir: Path) -> dict[str, Any]:
        """run.json, when the last start has written it; else empty."""
        run = run_of_job(job, run_dir)
        return run if run.get("job_launch") == str(job.launches) else {}

    def lost(self, job: Job) -> str:
        """A Ray that was started anew knows no job of before."""
        known = self._details(job) is not None or _id(job) in self._refused
        return "" if known else "the Ray cluster does not know it any more; it was started anew"

    def said(self, job: Job) -> list[str]:
        """The errors that its train.sh has printed."""
        return local.said(self.folder / job.uuid)

    def stop(self, job: Job, kill: bool) -> None:
        """Have Ray stop it: SIGTERM, and SIGKILL after ``STOP_SECONDS``, whether it is asked to kill or not."""
        name = _id(job)
        with self._lock:
            if self._wanted.get(name):
                del self._wanted[name]
                self._refused[name] = "stopped before it was submitted"
            elif not kill:
                self._stops.add(name)
        self._wake.set()

    def _details(self, job: Job) -> Any:
        seen = self._seen
        return seen.jobs.get(_id(job)) if seen else None

    # ---- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ends.is_set():
            try:
                self.look()
                self._failed = ""
            except Exception as error:  # whatever the network does; the queue stands still and /api/health tells
                if not self._failed:
                    log.warning("Ray: %s: %s", type(error).__name__, error)
                self._failed = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            self._wake.wait(POLL)
            self._wake.clear()

    def look(self) -> None:
        """Do what was asked for, then see how the cluster is."""
        self._submit()
        self._stop()
        with self._lock:
            sent = [name for name, options in self._wanted.items() if options is None]
        at = self._clock()
        machines = self._client.machines()
        jobs = {one.submission_id: one for one in self._client.list_jobs() if one.submission_id}
        self._follow(jobs)
        with self._lock:
            self._seen = Seen(at, machines, jobs)
            for name in sent:
                self._wanted.pop(name, None)
                if name in jobs:
                    self._refused.pop(name, None)

    def look_first(self) -> None:
        """As `look`; a Ray that was just started tells of its machines after some seconds."""
        until = self._clock() + FIRST_SECONDS
        while True:
            self.look()
            if self.machines() or self._clock() > until:
                return
            time.sleep(POLL)

    def _submit(self) -> None:
        with self._lock:
            wanted = {name: options for name, options in self._wanted.items() if options}
        for name, options in wanted.items():
            try:
                self._client.submit_job(submission_id=name, **options)
            except (RuntimeError, ValueError) as error:  # its answer, or a kit that is too large
                with self._lock:
                    self._refused[name] = f"Ray refuses it: {_short(error)}"  # unless it has had it before: `look`
            with self._lock:
                self._wanted[name] = None

    def _stop(self) -> None:
        with self._lock:
            stops, self._stops = self._stops, set()
        for name in stops:
            with suppress(RuntimeError):  # it has ended by itself
                self._client.stop_job(name)

    def _follow(self, jobs: Mapping[str, Any]) -> None:
        """Keep what each train.sh prints in its launch.log, to the end before the job counts as over."""
        with self._lock:
            followed = dict(self._followed)
        for name, one in followed.items():
            over = name not in jobs or _state(jobs[name]) not in ALIVE
            every = LOG_SECONDS[0] if one.starting else LOG_SECONDS[1]
            if over or self._clock() - one.looked > every:
                one.looked = self._clock()
                with suppress(RuntimeError):  # the machine that has it is gone
                    _keep(one.folder / local.LOG, self._client.get_job_logs(name))
            if over:
                with self._lock:
                    del self._followed[name]
                    self._read.add(name)


def _id(job: Job, number: int | None = None) -> str:
    return f"{job.uuid}-{job.launches if number is None else number}"


def _state(details: Any) -> str:
    return getattr(details.status, "value", str(details.status))


def _short(error: Exception) -> str:
    """The last line of what Ray says, which may be a traceback in JSON."""
    lines = [line for line in str(error).replace("\\n", "\n").splitlines() if line.strip(' "}.')]
    return (lines or [type(error).__name__])[-1].strip()[:500]


def _keep(path: Path, text: str) -> None:
    """Append what is new of a text to launch.log, below the head of the last start."""
    with path.open("r+b") as stream:
        whole = stream.read()
        head = whole.rfind(local.HEAD.encode())
        begin = whole.find(b"\n", head) + 1
        stream.write(text.encode("utf-8", "replace")[len(whole) - begin :])
