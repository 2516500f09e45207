"""TransferQueue's sockets of a run on one machine are bound to loopback, where no other machine reaches them.

Target: `get_node_ip_address`, transfer_queue/utils/zmq_utils.py:293.

Upstream: no issue known.

Until: TransferQueue has a setting for the address.
"""

from __future__ import annotations

from collections.abc import Callable

LOOPBACK = "127.0.0.1"


def replacement(original: Callable[[], str]) -> Callable[[], str]:
    """The address of this machine as seen from itself."""

    def get_node_ip_address() -> str:
        return LOOPBACK

    return get_node_ip_address
