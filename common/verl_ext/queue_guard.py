"""TransferQueue's sockets for a run's own processes only: keys, and when the two replacements are put in.

The library moves the batches of an RL run through ZeroMQ sockets that are bound to the node's address and unpickle
whatever comes, before they look who sent it: anyone who can open a connection runs code as the user who trains. It has
no setting for either, so two functions of its ``zmq_utils`` are replaced (``queue_socket``, ``queue_address``).

The keys are made in the trainer's process and passed on in the environment of its children, which only the same user
can read; they are in no log, and in no file but that of a run on several machines (`KEYS_FILE`). Each Ray worker runs
`install` when it starts (``ray_kwargs.ray_init.runtime_env.worker_process_setup_hook``), each process that imports verl
runs `start`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from common.verl_ext import table

TARGET = "transfer_queue.utils.zmq_utils"
KEYS_FILE = "TRANSFER_QUEUE_KEYS_FILE"  # of a run on several machines: the keys as JSON, for its user only
SHARE_SECONDS = 60.0  # until machines see each other's files
PUBLIC, SECRET = "TRANSFER_QUEUE_PUBLIC_KEY", "TRANSFER_QUEUE_SECRET_KEY"


def start() -> None:
    """Make the keys, unless this is a Ray worker, which is given them; then `install`."""
    if "RAY_JOB_ID" not in os.environ and not os.environ.get(KEYS_FILE):
        make_keys()
    install()


def install() -> None:
    """Guard the sockets of this process, now or when TransferQueue is imported.

    Raises:
        RuntimeError: In a Ray worker that was given no keys: the run's machines do not share them.
    """
    if os.environ.get(KEYS_FILE) and not os.environ.get(SECRET):
        read_keys(Path(os.environ[KEYS_FILE]))
    if not (os.environ.get(PUBLIC) and os.environ.get(SECRET)):
        raise RuntimeError(
            f"{PUBLIC} is not set in this process, so it cannot talk to the run's TransferQueue; the trainer makes "
            "the key, and processes on other machines need it in their environment"
        )
    if TARGET in sys.modules:
        guard()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def make_keys() -> None:
    """Make the keys of a run, once, in the process that starts all others."""
    if not os.environ.get(SECRET):
        import zmq

        public, secret = zmq.curve_keypair()
        os.environ[PUBLIC], os.environ[SECRET] = public.decode(), secret.decode()


def read_keys(file: Path) -> None:
    """Take the keys that the first machine has written (``common/cluster/run_secrets.py``).

    Raises:
        RuntimeError: If they are not seen here.
    """
    until = time.monotonic() + SHARE_SECONDS
    while not os.path.isfile(file):  # Path.is_file raises where another user may not look
        if time.monotonic() > until:
            raise RuntimeError(
                f"{KEYS_FILE}={file} is not seen on {platform.node()} after {SHARE_SECONDS:.0f} s, so this process "
                "cannot talk to the run's TransferQueue; OUTPUTS_DIR must be one folder for all machines, and Ray must "
                "run as the same user on all of them"
            )
        time.sleep(0.2)
    try:
        keys = json.loads(file.read_text(encoding="utf-8"))
        os.environ.update({name: keys[name] for name in (PUBLIC, SECRET)})
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RuntimeError(
            f"{KEYS_FILE}={file} cannot be read on {platform.node()} ({type(error).__name__}); start the run "
            "again, it writes a new one"
        ) from None  # what is in it stays out of the log


def guard() -> None:
    """Put the replacements in; the address stays the node's where other machines must reach it."""
    one = os.environ.get("NNODES", "1") == "1"
    table.replace({"queue", "queue_on_one_machine"} if one else {"queue"})


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
        guard()

    def __getattr__(self, name: str) -> Any:  # get_source and kin, which inspect asks for
        return getattr(self.loader, name)
