"""What the processes of an RL run on several machines must share and nobody else may know: a folder in the run's own.

Ray's token and the keys of TransferQueue's sockets are in files that only the user can read, on the disk that the
machines share. They are in no log, no command and no ``runtime_env``; they go with the attempt.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from pathlib import Path

from common.cluster.names import ClusterError

TOKEN, KEYS = "ray_token", "queue_keys.json"
SHARE_SECONDS = 60.0


def folder_of(run_dir: Path, launch: str) -> Path:
    """The folder of a launch."""
    return run_dir / f".cluster-{launch}"


def make(run_dir: Path, launch: str) -> None:
    """Write both, on the first machine."""
    import zmq

    for old in run_dir.glob(".cluster-*"):  # of an attempt that was killed
        shutil.rmtree(old, ignore_errors=True)
    folder = folder_of(run_dir, launch)
    folder.mkdir(mode=0o700)
    public, secret = zmq.curve_keypair()
    keys = {"TRANSFER_QUEUE_PUBLIC_KEY": public.decode(), "TRANSFER_QUEUE_SECRET_KEY": secret.decode()}
    for name, text in ((KEYS, json.dumps(keys)), (TOKEN, secrets.token_hex(32))):  # who sees the token finds the keys
        temporary = folder / f".{name}"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(text)
        os.replace(temporary, folder / name)


def read(run_dir: Path, launch: str, seconds: float = SHARE_SECONDS) -> dict[str, str]:
    """Variables for Ray's processes of this machine.

    Raises:
        ClusterError: If the folder does not appear here.
    """
    token = folder_of(run_dir, launch) / TOKEN
    until = time.monotonic() + seconds
    while not os.path.isfile(token):
        if time.monotonic() > until:
            raise ClusterError(
                f"{token} is not seen here after {seconds:.0f} s; is OUTPUTS_DIR one folder for all machines?"
            )
        time.sleep(0.2)
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), **keys_file(run_dir, launch)}


def keys_file(run_dir: Path, launch: str) -> dict[str, str]:
    """The variable that names the file of TransferQueue's keys (``common/verl_ext/queue_guard.py``)."""
    return {"TRANSFER_QUEUE_KEYS_FILE": str(folder_of(run_dir, launch) / KEYS)}


def discard(run_dir: Path, launch: str) -> None:
    """Remove them when the run has ended."""
    shutil.rmtree(folder_of(run_dir, launch), ignore_errors=True)
