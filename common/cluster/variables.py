"""Variables of a run on several machines that each machine sets for itself."""

from __future__ import annotations

from collections.abc import Mapping

from common.cluster import network
from common.cluster.names import Cluster


def rendezvous(cluster: Cluster | None, address: str = "127.0.0.1") -> dict[str, str]:
    """How torchrun's processes find each other: alone through a free port, else at the first machine's address.

    Not through torchrun's c10d with several machines: there the processes look for the first by its host name, which
    often does not resolve.
    """
    if cluster is None:
        return {"RENDEZVOUS": "c10d", "RENDEZVOUS_ADDR": "localhost:0", "MACHINE_RANK": "0", "MACHINE_ADDR": address}
    return {
        "RENDEZVOUS": "static",
        "RENDEZVOUS_ADDR": network.endpoint(cluster.master, cluster.torchrun_port),
        "MACHINE_RANK": str(cluster.rank),
        "MACHINE_ADDR": address,
    }


def own_variables(cluster: Cluster, address: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What this machine's launcher exports in addition to what the first has resolved.

    Args:
        cluster: Its place.
        address: Its own on the way to the others.
        environment: What the user has set stays.
    """
    place = {"NODE_RANK": cluster.rank, "MASTER_ADDR": cluster.master, "MASTER_PORT": cluster.port}
    return {
        **rendezvous(cluster, address),
        **{name: str(value) for name, value in place.items()},
        **network.interface_variables(address, environment),
    }
