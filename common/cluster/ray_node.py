"""One machine's part of a Ray that lives as long as a run: ``python -m common.cluster.ray_node OPTIONS [-- COMMAND]``.

The first machine starts the head, waits until all machines have joined, and runs COMMAND; the others join. The
supervisor that runs this ends what is left below it, raylets included, so nothing is stopped by name.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.cluster import network, run_secrets
from common.cluster.names import Cluster, ClusterError, read_cluster

CPU_COUNT = 64  # a logical count, as in common/config/rl/hardware/cpu.yaml
START_SECONDS = 120.0  # until Ray's head listens
JOIN_SECONDS = 180.0  # until all machines have joined it
POLL_SECONDS = 0.5


def command_of(cluster: Cluster, command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """What a launcher runs for an RL run: Ray's part of this machine, with the trainer below it on the first."""
    start = [sys.executable, "-m", "common.cluster.ray_node", f"--gpus={environment['N_GPUS']}"]
    start.append(f"--address={environment['MACHINE_ADDR']}")
    if environment.get("DEVICE") == "cpu":
        start.append(f"--cpus={CPU_COUNT}")
    elif environment.get("RAY_CPUS", "").isdecimal():
        start.append(f"--cpus={environment['RAY_CPUS']}")
    return [*start, "--", *command] if cluster.rank == 0 else start


def main() -> int:
    """Run this machine's part."""
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(prog="python -m common.cluster.ray_node", description=__doc__)
    parser.add_argument("--gpus", required=True, help="GPUs of this machine for the run")
    parser.add_argument("--address", required=True, help="of this machine on the way to the others")
    parser.add_argument("--cpus", help="CPUs that Ray may use")
    options = parser.parse_args(sys.argv[1:split])
    try:
        cluster = read_cluster(os.environ)
        os.environ.update(run_secrets.read(Path(os.environ["RUN_DIR"]), os.environ["CLUSTER_LAUNCH"]))
        start = ray_start(cluster, network.resolve(cluster.master), options.address, options)
        return lead(cluster, start, sys.argv[split + 1 :]) if cluster.rank == 0 else join(cluster, start)
    except ClusterError as error:
        print(f"ClusterError: {error}", flush=True)
        return 1


def ray_start(cluster: Cluster, head: str, own: str, options: argparse.Namespace) -> list[str]:
    """The ``ray start`` of this machine; always with its own address: Ray would look for the way to 8.8.8.8."""
    ray = str(Path(sys.executable).parent / "ray")
    command = [
        ray,
        "start",
        "--block",
        f"--node-ip-address={own}",
        f"--num-gpus={options.gpus}",
        "--disable-usage-stats",
    ]
    if options.cpus:
        command.append(f"--num-cpus={options.cpus}")
    if cluster.rank == 0:
        return [*command, "--head", f"--port={cluster.ray_port}", "--include-dashboard=false"]
    return [*command, f"--address={network.endpoint(head, cluster.ray_port)}"]


def lead(cluster: Cluster, start: Sequence[str], command: Sequence[str]) -> int:
    """Start the head, wait for the other machines, run the trainer; returns its status.

    Raises:
        ClusterError: If Ray does not start, or a machine does not join.
    """
    if network.reachable(network.resolve(cluster.master), cluster.ray_port, 2.0) is None:
        raise ClusterError(f"RAY_PORT={cluster.ray_port} is in use on this machine; set another on all machines")
    raylet = subprocess.Popen(start, stdin=subprocess.DEVNULL)
    address = network.endpoint(network.resolve(cluster.master), cluster.ray_port)
    wait_for_head(cluster, raylet)
    wait_for_machines(cluster, address, raylet)
    trainer = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": address}, stdin=subprocess.DEVNULL)
    while trainer.poll() is None:  # a trainer whose Ray has died waits on without a word
        time.sleep(POLL_SECONDS)
        if raylet.poll() is not None:
            raise ClusterError(
                f"Ray has ended on the first machine (exit status {raylet.returncode}) before the trainer"
            )
    return trainer.returncode if trainer.returncode >= 0 else 128 - trainer.returncode


def wait_for_head(cluster: Cluster, raylet: subprocess.Popen | None = None) -> None:
    """Wait until Ray's head answers: ``ray start --address`` would wait without a word and without an end.

    Raises:
        ClusterError: If it does not.
    """
    until = time.monotonic() + START_SECONDS
    while problem := network.reachable(network.resolve(cluster.master), cluster.ray_port, 2.0):
        where = network.endpoint(cluster.master, cluster.ray_port)
        if raylet and raylet.poll() is not None:
            raise ClusterError(f"Ray's head has not started on {where} (exit status {raylet.returncode})")
        if time.monotonic() > until:
            raise ClusterError(f"Ray's head does not answer on {where} after {START_SECONDS:.0f} s: {problem}")
        time.sleep(POLL_SECONDS)


def wait_for_machines(cluster: Cluster, address: str, raylet: subprocess.Popen) -> None:
    """Wait until all machines have joined.

    Raises:
        ClusterError: If one is not there in time.
    """
    import ray

    until, before = time.monotonic() + JOIN_SECONDS, 0
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        while True:
            alive = [node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]]
            if len(alive) != before:
                before = len(alive)
                print(f"Ray: {before} of {cluster.nnodes} machines: {', '.join(sorted(alive))}", flush=True)
            if before >= cluster.nnodes:
                return
            if raylet.poll() is not None or time.monotonic() > until:
                raise ClusterError(
                    f"{before} of NNODES={cluster.nnodes} machines have joined Ray at {address} after "
                    f"{JOIN_SECONDS:.0f} s; train.node<rank>.log of the others says why"
                )
            time.sleep(POLL_SECONDS)
    finally:
        ray.shutdown()


def join(cluster: Cluster, start: Sequence[str]) -> int:
    """Join the head until it is gone; returns Ray's status.

    On a busy machine Ray gives up after 30 s, a limit that it has no setting for; then it is asked again.

    Raises:
        ClusterError: If it does not answer.
    """
    until = time.monotonic() + JOIN_SECONDS / 2
    while True:
        wait_for_head(cluster)
        status = subprocess.call(start, stdin=subprocess.DEVNULL)
        if time.monotonic() > until:
            return status
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
