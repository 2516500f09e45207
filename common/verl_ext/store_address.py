"""torch's store of an RL run is bound to the address that it announces: loopback on one machine.

Target: `TCPStore` in `_create_c10d_store`, torch/distributed/rendezvous.py:162.

torch binds the store to every address of the machine, and it takes keys and values from whoever connects. The store of
SFT and DPO is made by torchrun itself.

Upstream: no issue known.

Until: torch binds the store to the address that it is to announce.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any


def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
    """The original on a separate listener."""
    several = os.environ.get("NNODES", "1") != "1"

    def create(host_name: str, port: int, *args: Any, is_master: bool = False, **kwargs: Any) -> Any:
        if is_master and (several or host_name in ("127.0.0.1", "localhost")) and "master_listen_fd" not in kwargs:
            family, kind, _, _, address = socket.getaddrinfo(host_name, port, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, kind)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
            kwargs["master_listen_fd"] = listener.detach()  # which the store closes
        return original(host_name, port, *args, is_master=is_master, **kwargs)

    return create
