"""A board that the launchers of all machines write on and read from: torch's TCPStore, with a limit on each call.

The first machine holds it. A call to a store whose machine is cut off would never return, so each runs in a thread.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

from common.cluster import network
from common.cluster.names import ClusterError

CALL_SECONDS = 60.0  # a call that takes longer finds nobody any more
POLL_SECONDS = 0.2


class BoardGone(ClusterError):
    """The machine that holds the board does not answer any more."""


class Board:
    """Keys and JSON values.

    Args:
        store: A ``torch.distributed.TCPStore``.
    """

    def __init__(self, store: Any):
        self._store = store

    def post(self, key: str, value: Any) -> None:
        """Write a value."""
        self._call("set", key, json.dumps(value))

    def claim(self, key: str, value: Any) -> Any:
        """Write a value unless there is one; returns the one that is there now."""
        return json.loads(self._call("compare_set", key, "", json.dumps(value)))

    def read(self, key: str) -> Any | None:
        """The value of a key, None where there is none."""
        return json.loads(self._call("get", key)) if self._call("check", [key]) else None

    def _call(self, name: str, *arguments: Any) -> Any:
        answer: queue.Queue[tuple[Any, Exception | None]] = queue.Queue(1)

        def work() -> None:
            try:
                answer.put((getattr(self._store, name)(*arguments), None))
            except Exception as error:
                answer.put((None, error))

        threading.Thread(target=work, daemon=True).start()
        try:
            value, error = answer.get(timeout=CALL_SECONDS)
        except queue.Empty:
            raise BoardGone(f"the first machine has not answered for {CALL_SECONDS:.0f} s") from None
        if error:
            raise BoardGone(f"the first machine has closed the connection ({type(error).__name__})") from error
        return value


def host_board(address: str, port: int, patience: float = 10.0) -> Board:
    """Hold the board on this machine, on one address of it.

    Args:
        address: Of this machine; the board is bound to it and to no other.
        port: A free port.
        patience: Seconds in which the port may still be in use by a launcher that is just ending.

    Raises:
        ClusterError: If the address is not this machine's, or the port is taken.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    until = time.monotonic() + patience
    while True:
        try:
            listener.bind((address, port))
            break
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
                continue
            raise ClusterError(_why_not_bound(address, port, error)) from None
    listener.listen(1024)
    return Board(_store(address, port, is_master=True, master_listen_fd=listener.detach()))


def _why_not_bound(address: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"MASTER_PORT={port} is in use on this machine; set another on all machines"
    if error.errno == errno.EADDRNOTAVAIL:
        own = ", ".join(sorted(network.addresses()))
        return (
            f"MASTER_ADDR={address} is not an address of this machine, which is the first (NODE_RANK=0) and has {own}; "
            "give one of these that the others can reach, on all machines"
        )
    return f"MASTER_ADDR={address}, MASTER_PORT={port}: {error.strerror}; set others on all machines"


def join_board(host: str, port: int, timeout: float, say: Callable[[str], None]) -> Board:
    """Reach the board of the first machine, which may start later than this one.

    Args:
        host: Of the first machine, by name or address.
        port: Where it holds the board.
        timeout: Seconds to wait for it.
        say: Called once with what is waited for.

    Raises:
        ClusterError: If nobody has answered in time; with the last reason.
    """
    until, said = time.monotonic() + timeout, ""
    while True:
        try:
            address = network.resolve(host)
            problem = network.reachable(address, port)
        except OSError as error:
            problem = f"the name does not resolve here ({error.strerror or error})"
        if problem is None:
            try:
                return Board(_store(address, port, is_master=False))
            except RuntimeError as error:  # torch's DistNetworkError: somebody else listens there, or it has just ended
                problem = f"what listens there is not a launcher ({type(error).__name__})"
        if time.monotonic() >= until:
            raise ClusterError(
                f"MASTER_ADDR={host}, MASTER_PORT={port}: no first machine after {timeout:.0f} s: {problem}; check "
                "that train.sh runs there with NODE_RANK=0, that MASTER_ADDR is its address, and that its port is open"
            )
        if problem != said:
            said = problem
            say(f"waiting for the first machine at {network.endpoint(host, port)}: {problem}")
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))


def leave(status: int) -> NoReturn:
    """End this process at once with an exit status.

    A call to the store may still wait in a thread, for ever where a machine is cut off; and one that returns while
    Python shuts down ends the process with SIGABRT.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _store(address: str, port: int, **options: Any) -> Any:
    quiet = "TORCH_CPP_LOG_LEVEL"
    before = os.environ.get(quiet)
    os.environ[quiet] = "FATAL"  # it prints a stack trace when a machine goes, which is said in words here
    try:
        from torch.distributed import TCPStore

        return TCPStore(address, port, timeout=timedelta(seconds=CALL_SECONDS), wait_for_workers=False, **options)
    finally:
        os.environ.pop(quiet) if before is None else os.environ.update({quiet: before})
