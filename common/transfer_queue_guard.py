"""TransferQueue's sockets for a run's own processes only.

TransferQueue 0.1.11 moves the batches of an RL run through ZeroMQ sockets that are bound to the node's address and
unpickle whatever comes, before they look who sent it (transfer_queue/utils/zmq_utils.py:236, controller.py:1734,
storage/simple_storage.py:826): anyone who can open a connection runs code as the user who trains. Two functions of its
``zmq_utils`` are replaced, as the library has no setting for either:

* ``get_node_ip_address``: a run on one machine binds to loopback.
* ``create_zmq_socket``: sockets speak CURVE (ZeroMQ's encryption) with keys that are made for each run. A stranger does
  not know the server's public key, so that the handshake fails and nothing of his is ever read.

The keys are made in the trainer's process and passed on in the environment of its children, which only the same user
can read; they stand in no file and no log. Each Ray worker runs `install` when it starts
(``ray_kwargs.ray_init.runtime_env.worker_process_setup_hook``), each process that imports verl imports this module.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

TARGET = "transfer_queue.utils.zmq_utils"
PUBLIC, SECRET = "TRANSFER_QUEUE_PUBLIC_KEY", "TRANSFER_QUEUE_SECRET_KEY"
LOOPBACK = "127.0.0.1"


def install() -> None:
    """Guard the sockets of this process, now or when TransferQueue is imported.

    Raises:
        RuntimeError: In a Ray worker that was given no keys: the run's machines do not share them.
    """
    if not (os.environ.get(PUBLIC) and os.environ.get(SECRET)):
        raise RuntimeError(
            f"{PUBLIC} is not set in this process, so it cannot talk to the run's TransferQueue; the trainer makes "
            "the key, and processes on other machines need it in their environment"
        )
    if TARGET in sys.modules:
        guard(sys.modules[TARGET])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def make_keys() -> None:
    """Make the keys of a run, once, in the process that starts all others."""
    if not os.environ.get(SECRET):
        import zmq

        public, secret = zmq.curve_keypair()
        os.environ[PUBLIC], os.environ[SECRET] = public.decode(), secret.decode()


def guard(module: ModuleType) -> None:
    """Replace the two functions of ``transfer_queue.utils.zmq_utils``; once.

    Raises:
        RuntimeError: If its code is not that of TransferQueue 0.1.11 any more.
    """
    import zmq

    from common.verl_source import expect_source

    create = module.create_zmq_socket
    if hasattr(create, "__wrapped__"):
        return
    expect_source(create, "socket = ctx.socket(socket_type)", "sockets of TransferQueue")
    expect_source(module.get_node_ip_address, "ray.util.get_node_ip_address()", "address of TransferQueue")
    public, secret = os.environ[PUBLIC].encode(), os.environ[SECRET].encode()

    def create_guarded(ctx: Any, socket_type: Any, ip: str, identity: Any = None) -> Any:
        socket = create(ctx, socket_type, ip, identity)
        socket.curve_publickey, socket.curve_secretkey = public, secret
        if socket_type == zmq.ROUTER:  # the sockets that are bound
            socket.curve_server = True
        else:
            socket.curve_serverkey = public
        return socket

    create_guarded.__wrapped__ = create
    _replace("create_zmq_socket", create, create_guarded)
    if os.environ.get("NNODES", "1") == "1":
        _replace("get_node_ip_address", module.get_node_ip_address, lambda: LOOPBACK)


def _replace(name: str, old: Any, new: Any) -> None:
    """Put a function in the place of another in each module of the library that has it by now."""
    for module in [one for key, one in sys.modules.items() if key.partition(".")[0] == "transfer_queue"]:
        if getattr(module, name, None) is old:
            setattr(module, name, new)


class _Finder(importlib.abc.MetaPathFinder):
    """Guards the module as soon as it is imported: importing it here would load torch into each idle worker."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual spec of `TARGET`, with a loader that guards it; None for all other modules."""
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any):
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        guard(module)

    def __getattr__(self, name: str) -> Any:  # get_source and kin, which inspect asks for
        return getattr(self.loader, name)


if "RAY_JOB_ID" not in os.environ:  # which Ray sets in its workers: they are given the keys
    make_keys()
install()
