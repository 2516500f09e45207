"""What nvidia-smi says: the GPUs of this host and who uses them, found without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess


class DriverError(Exception):
    """nvidia-smi is there and fails: a driver that does not work, which is not the same as no GPU."""


def nvidia_smi(query: str) -> list[list[str]]:
    """The rows that nvidia-smi answers to a query, e.g. ``--query-gpu=index,uuid``; none without nvidia-smi or GPU.

    Raises:
        DriverError: If nvidia-smi fails or does not answer; holds its first line.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except (subprocess.SubprocessError, OSError) as error:
        raise DriverError(f"nvidia-smi does not answer ({error})") from None
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()[:1]
    if done.returncode and said and said[0].startswith("No devices"):
        return []
    if done.returncode:
        raise DriverError(f"nvidia-smi fails: {said[0] if said else f'exit status {done.returncode}'}")
    width = query.count(",") + 1
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == width]


def visible(rows: list[list[str]]) -> list[list[str]]:
    """Those that ``CUDA_VISIBLE_DEVICES`` leaves visible, in its order; a row begins with index and uuid."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return rows
    visible = [name.strip() for name in chosen.split(",") if name.strip()]
    return [row for name in visible for row in rows if name == row[0] or row[1].startswith(name)]
