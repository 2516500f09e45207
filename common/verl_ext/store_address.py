"""torch's store of an RL run on one machine is bound to loopback.

Target: `TCPStore` in `_create_c10d_store`, torch/distributed/rendezvous.py:162.

torch binds the store to every address of the machine, and it takes keys and values from whoever connects. The store of
SFT and DPO is made by torchrun itself.

Upstream: no issue known.

Until: torch binds the store to the address that it is told to announce.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any


def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
    """The original on a listener of loopback; the original itself where the run has several machines."""
    if os.environ.get("NNODES", "1") != "1":
        return original

    def create(host_name: str, port: int, *args: Any, is_master: bool = False, **kwargs: Any) -> Any:
        if is_master and host_name in ("127.0.0.1", "localhost") and "master_listen_fd" not in kwargs:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(1024)
            kwargs["master_listen_fd"] = listener.detach()  # which the store closes
        return original(host_name, port, *args, is_master=is_master, **kwargs)

    return create
