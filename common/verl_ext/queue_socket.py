"""TransferQueue's sockets speak CURVE, ZeroMQ's encryption, with keys that are made for each run.

Target: `create_zmq_socket`, transfer_queue/utils/zmq_utils.py:326.

A stranger does not know the server's public key, so that the handshake fails and nothing of theirs is ever unpickled
(``queue_guard`` says where from).

Upstream: no issue known.

Until: TransferQueue authenticates the senders of what it unpickles.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from common.verl_ext.queue_guard import PUBLIC, SECRET


def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
    """The original, with the run's keys set before the socket is bound or connected."""
    import zmq

    public, secret = os.environ[PUBLIC].encode(), os.environ[SECRET].encode()

    def create_guarded(ctx: Any, socket_type: Any, ip: str, identity: Any = None) -> Any:
        socket = original(ctx, socket_type, ip, identity)
        socket.curve_publickey, socket.curve_secretkey = public, secret
        if socket_type == zmq.ROUTER:  # the sockets that are bound
            socket.curve_server = True
        else:
            socket.curve_serverkey = public
        return socket

    return create_guarded
