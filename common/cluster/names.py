"""Which machine of how many this is, from the environment: the kit's own names, else those of a scheduler."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

RANK_NAMES = ("NODE_RANK", "PET_NODE_RANK", "SLURM_NODEID", "SKYPILOT_NODE_RANK", "JOB_COMPLETION_INDEX")
PORT = 29500
TIMEOUT = 600.0  # seconds that the launchers wait for the last of them
SUPERVISED = ("sft", "dpo", "reward_model")  # torchrun trains these; Ray all others


class ClusterError(Exception):
    """Why the machines cannot start together, in words for a person."""


@dataclass(frozen=True)
class Cluster:
    """The place of this machine among those of a run.

    Args:
        nnodes: How many machines.
        rank: Of this one, 0 for the first.
        master: Address or host name of the first machine.
        port: Where the launchers meet on it; the next ports are torchrun's and Ray's.
        timeout: Seconds to wait for all to come.
    """

    nnodes: int
    rank: int
    master: str
    port: int = PORT
    timeout: float = TIMEOUT

    @property
    def torchrun_port(self) -> int:
        """Where torchrun's processes meet."""
        return self.port + 1

    @property
    def ray_port(self) -> int:
        """Where Ray's head listens."""
        return int(os.environ.get("RAY_PORT") or self.port + 2)


def machines_wanted(environment: Mapping[str, str]) -> int:
    """``NNODES`` as a number; 1 where it is none, which the preflight refuses."""
    text = environment.get("NNODES") or "1"
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else 1


def joins_ray(environment: Mapping[str, str], algorithm: str) -> bool:
    """Whether the run joins a Ray that is there already, on one of its machines, and no launcher runs on the others."""
    given = environment.get("RAY_ADDRESS", "")
    return machines_wanted(environment) > 1 and algorithm not in SUPERVISED and given not in ("", "local")


def read_cluster(environment: Mapping[str, str]) -> Cluster:
    """This machine's place.

    Raises:
        ClusterError: If a name is missing or holds no usable value; with all that is wrong.
    """
    nnodes, wrong = machines_wanted(environment), []
    found = next((name for name in RANK_NAMES if environment.get(name)), None)
    rank = _number(environment, found, wrong) if found else 0
    if found is None:
        wrong.append(f"NODE_RANK is not set: 0 on the first machine, then 1 to {nnodes - 1} on the others")
    elif rank >= nnodes:
        wrong.append(
            f"{found}={rank}: NNODES={nnodes} machines have the ranks 0 to {nnodes - 1}; correct one of the two"
        )
    if environment.get("SLURM_LOCALID", "0") != "0":
        wrong.append("Slurm has started several launchers on this machine; start one: srun --ntasks-per-node=1")
    master = _master(environment)
    if not master:
        wrong.append(f"MASTER_ADDR is not set: the address of the first machine, the same on all {nnodes}")
    port_name = next((name for name in ("MASTER_PORT", "PET_MASTER_PORT") if environment.get(name)), None)
    port = _number(environment, port_name, wrong) if port_name else PORT
    if not 0 < port < 65534:
        wrong.append(f"{port_name}={port}: must be a port from 1 to 65533; the two after it are used too")
    timeout = environment.get("CLUSTER_TIMEOUT") or str(TIMEOUT)
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", timeout):
        wrong.append(f"CLUSTER_TIMEOUT={timeout}: must be a number of seconds")
    if wrong:
        raise ClusterError("\n".join([f"NNODES={nnodes}, and this machine does not know its place:", *_points(wrong)]))
    return Cluster(nnodes, rank, master, port, float(timeout))


def launchers_of(environment: Mapping[str, str]) -> Cluster | None:
    """This launcher's place among those of several machines; None where it is the only one.

    Args:
        environment: What train.sh exported.
    """
    if machines_wanted(environment) == 1 or joins_ray(environment, environment["ALGORITHM"]):
        return None
    return read_cluster(environment)


def _points(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _number(environment: Mapping[str, str], name: str, wrong: list[str]) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", environment[name]):
        wrong.append(f"{name}={environment[name]}: must be a whole number")
        return 0
    return int(environment[name])


def _master(environment: Mapping[str, str]) -> str:
    for name in ("MASTER_ADDR", "PET_MASTER_ADDR"):
        if environment.get(name):
            return environment[name].strip().strip("[]")
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"):
        if environment.get(name):
            return first_host(environment[name])
    return next(iter(environment.get("SKYPILOT_NODE_IPS", "").split()), "")


def first_host(hosts: str) -> str:
    """The first host of a list as Slurm writes it: ``gpu[03-07,11],login`` gives ``gpu03``."""
    found = re.match(r"([^\[,]+)(?:\[([0-9]+)[^\]]*\])?([^,\[]*)", hosts)
    return "".join(part or "" for part in found.groups()) if found else ""
