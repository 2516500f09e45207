"""A Ray that was there before the run: its machines are compared by a task on each, with the meeting's functions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import machine_use
from common.cluster import compare, facts, meeting
from common.cluster.names import Cluster, ClusterError
from common.files import ROOT

TASK_SECONDS = 180.0  # a machine starts a worker for it, which imports torch


def look(cluster: Cluster, algorithm: str, arguments: Sequence[str], offer: dict[str, str]) -> tuple[dict, dict]:
    """Run as a task of Ray on one machine: its facts, and what it finds of the plan."""
    import ray

    mine = facts.facts(cluster, ray.util.get_node_ip_address().strip("[]"), algorithm, arguments)
    return mine, meeting.look(offer, mine, None)


def check(
    nnodes: int, gpus: int, algorithm: str, arguments: Sequence[str], plan: meeting.Plan, say: meeting.Say
) -> dict[str, str]:
    """Compare the machines of the Ray at ``RAY_ADDRESS``.

    Args:
        nnodes: Machines that the run wants.
        gpus: GPUs of each.
        algorithm: Folder of the train.sh.
        arguments: ``key=value`` arguments for verl.
        plan: As the preflight has resolved it here.
        say: Shows a line.

    Returns:
        Variables: ``CLUSTER_MACHINES``, and the address that ``RAY_ADDRESS=auto`` was found to be: the trainer has a
        folder for Ray of its own, where it would look for none.

    Raises:
        ClusterError: If Ray does not answer.
        Refused: If there are too few machines, or they differ.
    """
    import ray

    try:
        environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        ray.init(os.environ["RAY_ADDRESS"], runtime_env=environment, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray has many kinds, each with a long text
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: this Ray cannot be joined ({first})") from None
    try:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= gpus]
        if len(nodes) < nnodes:
            raise meeting.Refused(
                f"NNODES={nnodes}: {len(nodes)} machines of this Ray have N_GPUS={gpus} GPUs; start more, or lower it"
            )
        found = ray.get_runtime_context().gcs_address
        place = Cluster(nnodes, 0, "")
        machines = _compare([node["NodeID"] for node in nodes], place, algorithm, arguments, plan, say)
        return {"CLUSTER_MACHINES": machines, "RAY_ADDRESS": found}
    finally:
        ray.shutdown()


def _compare(
    nodes: list[str], cluster: Cluster, algorithm: str, arguments: Sequence[str], plan: meeting.Plan, say: Callable
) -> str:
    """Ask each machine; this one comes first."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    nodes.sort(key=lambda node: node != here)
    with meeting.canary(plan.outputs) as (path, content):
        offer = {"sizes": facts.sizes(plan.paths), "canary": path, "time": time.time(), "doors": {}}
        sealed = meeting.seal(offer, "plan", content)
        asked = [
            ray.remote(look)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False))
            .remote(Cluster(cluster.nnodes, rank, ""), algorithm, list(arguments), sealed)
            for rank, node in enumerate(nodes)
        ]
        try:
            found = ray.get(asked, timeout=TASK_SECONDS)
        except Exception as error:
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise ClusterError(
                f"a machine of this Ray cannot be asked: {last[0]}; is the kit in {ROOT} on each?"
            ) from None
    machines = [mine for mine, _ in found]
    answers = [meeting.heard(answer, rank, content) for rank, (_, answer) in enumerate(found)]
    meeting.refuse(
        compare.differences(machines, None, on_cpu=True)  # Ray has counted the GPUs
        + compare.file_differences(machines, answers, str(plan.outputs))
    )
    say(
        f"{len(machines)} machines of the Ray at {os.environ['RAY_ADDRESS']}: "
        + ", ".join(map(compare.name_of, machines))
    )
    for line in compare.remarks(machines, answers):
        say(f"note: {line}")
    return meeting.summary(machines)


def nodes_of_run() -> set[str]:
    """Ids of the nodes on which this job has an actor, and of this one: a Ray may have others, which come and go."""
    import ray
    from ray._private.state import actors  # ray.util.state asks the dashboard, which is not everywhere

    context = ray.get_runtime_context()
    found = actors(job_id=ray.JobID.from_hex(context.get_job_id()), actor_state_name="ALIVE")
    return {context.get_node_id(), *(actor["Address"]["NodeID"] for actor in found.values())}


def record_machines(run_dir: Path, machines: Sequence[dict[str, Any]]) -> None:
    """Write what the machines of a run in a joined Ray do to its folder, by an actor on each, until this process ends.

    Args:
        run_dir: Of the run.
        machines: ``CLUSTER_MACHINES``.
    """
    import ray

    lookers: dict[int, Any] = {}
    while True:
        time.sleep(machine_use.EVERY)
        with suppress(OSError, ray.exceptions.RayError):  # a machine that is gone ends the run by itself
            used = nodes_of_run()
            nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["NodeID"] in used}
            for rank in list(lookers):
                if not _looked(lookers[rank], machine_use.file_of(run_dir, rank)):
                    del lookers[rank]  # its actor is gone, its machine perhaps not: another one is made
            for machine in machines:
                if machine["rank"] not in lookers and machine["address"] in nodes:
                    lookers[machine["rank"]] = _looker(nodes[machine["address"]], run_dir)


def _looked(looker: Any, file: Path) -> bool:
    """Write what an actor sees; False when it does not answer."""
    import ray

    try:
        machine_use.append(file, ray.get(looker.look.remote(), timeout=TASK_SECONDS))
    except ray.exceptions.RayError:
        return False
    return True


def _looker(node: str, run_dir: Path) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    looker = ray.remote(machine_use.MachineUse).options(num_cpus=0, scheduling_strategy=place).remote(str(run_dir))
    looker.look.remote()  # from here on it measures the CPU
    return looker
