"""What a machine has that must be, or should be, the same on all machines of a run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from common.algorithms import folder_of
from common.cluster import network
from common.cluster.names import Cluster
from common.files import ROOT, read_regular

PACKAGES = (
    *("verl", "torch", "transformers", "ray", "vllm", "sglang", "flash-attn", "TransferQueue", "tensordict"),
    *("numpy", "datasets", "peft", "accelerate", "omegaconf", "hydra-core"),
)
SEEN_SECONDS = 8.0  # NFS shows a new file once its cache of the folder has run out


def facts(cluster: Cluster, address: str, algorithm: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What this machine tells the others.

    Args:
        cluster: Its place.
        address: Of this machine on the way to the others.
        algorithm: Folder of the train.sh.
        arguments: ``key=value`` arguments for verl.
    """
    return {
        "rank": cluster.rank,
        "host": platform.node(),
        "address": address,
        "interface": network.interface_of(address),
        "gpus": gpu_count(),
        "memory": psutil.virtual_memory().available,
        "shm": shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0,
        "equal": {
            "NNODES": cluster.nnodes,
            "script": f"{folder_of(algorithm)}/train.sh",
            "arguments": " ".join(arguments),
            "python": platform.python_version(),
            "kit commit": kit_commit(),
            "kit folder": str(ROOT),
            **{name: package_version(name) for name in PACKAGES},
        },
    }


def gpu_count() -> int:
    """GPUs that ``CUDA_VISIBLE_DEVICES`` leaves visible."""
    import torch

    return torch.cuda.device_count()


def package_version(name: str) -> str | None:
    """The installed version, None without one."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def kit_commit(folder: Path = ROOT) -> str | None:
    """Commit of the kit, with ``-dirty`` when files were changed; None without git."""
    try:
        command = ["git", "-c", f"safe.directory={folder}", "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def sizes(paths: Iterable[str]) -> dict[str, str | None]:
    """Files and bytes of each path, None where it is not there."""
    return {path: _size(Path(path)) for path in paths}


def _size(path: Path) -> str | None:
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        return f"{len(files)} files of {sum(file.stat().st_size for file in files):,} bytes"
    return f"{path.stat().st_size:,} bytes" if path.is_file() else None


def read_shared(path: str, within: Path | None = None, seconds: float = SEEN_SECONDS) -> str:
    """What is in a file that the first machine has written, "" where it does not appear here.

    Args:
        path: As the first machine names it.
        within: A folder of this machine that it must lie in.
        seconds: How long to wait for it.
    """
    if within and not Path(path).resolve().is_relative_to(within.resolve()):
        return ""
    until = time.monotonic() + seconds
    while True:
        with suppress(OSError, ValueError):
            if found := read_regular(path, 200).decode():
                return found
        if time.monotonic() > until:
            return ""
        time.sleep(0.2)
