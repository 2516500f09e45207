"""What a worker of a Ray that was there before the run does first."""

from __future__ import annotations

import os

from common.cluster.network import interface_variables
from common.verl_ext import queue_guard


def set_up() -> None:
    """Use the interface of this machine's address in Ray, and guard TransferQueue's sockets.

    Launchers that start Ray themselves set both in the raylet's environment.
    """
    import ray

    os.environ.update(interface_variables(ray.util.get_node_ip_address().strip("[]"), os.environ))
    queue_guard.install()
