"""A Ray cluster as the queue sees it: its job server over HTTP, its machines, and the GPUs on them as slots.

A slot is called ``ADDRESS/NUMBER``, after the machine that it is on. The number means nothing: Ray numbers GPUs itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from training_platform.queue.slots import Slots

CONNECT_SECONDS, ANSWER_SECONDS, UPLOAD_SECONDS = 10.0, 30.0, 300.0


@dataclass(frozen=True)
class Machine:
    """A machine of the cluster.

    Args:
        address: As Ray's resource ``node:ADDRESS`` has it.
        gpus: How many Ray was told of.
        used: How many of them somebody has; 0 where Ray does not tell.
    """

    address: str
    gpus: int
    used: float = 0.0


class Client(Protocol):
    """What is used of ``ray.job_submission.JobSubmissionClient``, and `machines`."""

    def submit_job(self, *, entrypoint: str, submission_id: str, **options: Any) -> str:
        """Start a command; RuntimeError when Ray refuses it."""

    def stop_job(self, job_id: str) -> bool:
        """Ask it to end; RuntimeError when there is none."""

    def list_jobs(self) -> list[Any]:
        """All that Ray knows, as ``JobDetails``."""

    def get_job_logs(self, job_id: str) -> str:
        """What it has printed so far."""

    def machines(self) -> list[Machine]:
        """Those that live."""


def connect(address: str) -> Client:
    """A client of the job server at an address, ``http://HEAD:8265``; Ray's token is sent along where Ray finds one.

    Raises:
        ConnectionError: If no job server answers there.
    """
    # Ray would take these before the argument.
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    from ray.job_submission import JobSubmissionClient

    class Limited(JobSubmissionClient):
        """With a limit for each request: Ray's client waits for ever."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            limit = UPLOAD_SECONDS if method == "PUT" else ANSWER_SECONDS
            return super()._do_request(method, endpoint, timeout=(CONNECT_SECONDS, limit), **options)

        def machines(self) -> list[Machine]:
            nodes = self._do_request("GET", "/api/v0/nodes?detail=1&limit=10000").json()
            status = self._do_request("GET", "/api/cluster_status").json()
            return machines_of(nodes, status)

    try:
        return Limited(address)
    except Exception as error:  # Ray has many kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConnectionError(f"--ray_address {address}: no job server of Ray answers there ({first})") from None


def machines_of(nodes: dict[str, Any], status: dict[str, Any]) -> list[Machine]:
    """The machines that live.

    Args:
        nodes: Answer of ``/api/v0/nodes``.
        status: Answer of ``/api/cluster_status``; says how many GPUs are in use on each, but for Ray's first seconds.
    """
    report = ((status.get("data") or {}).get("clusterStatus") or {}).get("loadMetricsReport") or {}
    usage = report.get("usageByNode") or {}
    found = []
    for node in nodes["data"]["result"]["result"]:
        if node["state"] == "ALIVE":
            used = (usage.get(node["node_id"]) or {}).get("GPU") or [0.0]
            gpus = int((node["resources_total"] or {}).get("GPU", 0))
            found.append(Machine(node["node_ip"], gpus, float(used[0])))
    return sorted(found, key=lambda machine: machine.address)


def address_of(slot: str) -> str:
    """The machine of a slot."""
    return slot.rpartition("/")[0]


class RaySlots(Slots):
    """The GPUs of a cluster, as they are now.

    Args:
        machines: Tells of the cluster's machines.
        cpu_jobs: How many jobs without GPUs may run at a time, on the head.
    """

    lends = "cpu"  # what runs beside the jobs runs on the server's machine

    def __init__(self, machines: Callable[[], Iterable[Machine]], cpu_jobs: int):
        self._machines = machines
        object.__setattr__(self, "cpu_jobs", cpu_jobs)

    @property
    def gpus(self) -> tuple[str, ...]:
        """The names of all."""
        return tuple(f"{one.address}/{number}" for one in self._machines() for number in range(one.gpus))

    def choose(self, free: Sequence[str], count: int, nnodes: int) -> list[str] | None:
        """Slots for a job, as many on each of its machines; those with the fewest free ones that do are taken."""
        if not free or "/" not in free[0]:
            return super().choose(free, count, nnodes)
        each = count // nnodes
        on: dict[str, list[str]] = {}
        for name in free:
            on.setdefault(address_of(name), []).append(name)
        fit = sorted((names for names in on.values() if len(names) >= each), key=lambda names: (len(names), names[0]))
        return [name for names in fit[:nnodes] for name in names[:each]] if len(fit) >= nnodes else None

    def needed(self, num_gpus: int | None, device: str | None, nnodes: int = 1) -> dict[str, int]:
        """What a job takes; without a number all GPUs of the largest machine.

        A job on several machines takes what Ray counts as GPUs on the CPU too.
        """
        if nnodes > 1:
            return {"gpu": (num_gpus or 1) * nnodes}
        largest = max((one.gpus for one in self._machines()), default=0)
        return Slots(("",) * largest, self.cpu_jobs).needed(num_gpus, device)

    def problem(self, needed: dict[str, int], nnodes: int = 1) -> str | None:
        """Why this can never run on the cluster as it is, or None."""
        if "cpu" in needed:
            return super().problem(needed)
        each = needed["gpu"] // nnodes
        fit = sum(one.gpus >= each for one in self._machines())
        if fit < nnodes:
            where = f"each of {nnodes} machines" if nnodes > 1 else "one machine"
            return f"needs {each} GPUs on {where}, and the cluster has {fit} with as many; num_gpus=0 trains on the CPU"
        return None


class RayHolders:
    """GPUs that others than this queue's jobs have: Ray tells only how many of a machine are in use.

    Args:
        machines: Tells of the cluster's machines.
    """

    def __init__(self, machines: Callable[[], Iterable[Machine]]):
        self._machines = machines

    def of(self, gpus: Sequence[str]) -> dict[str, str]:
        """Each of the GPUs that somebody has.

        Args:
            gpus: Those that no job has been given. More of a machine may be in use than it has given: then as many of
                these are held. A job on several machines goes where Ray puts it, so it may hold more than it uses.
        """
        held = {}
        for one in self._machines():
            names = [name for name in gpus if address_of(name) == one.address]
            strange = max(0, int(-(-one.used // 1)) - (one.gpus - len(names)))
            held |= {name: "in use by another job of this Ray" for name in names[len(names) - strange :] if strange}
        return held
