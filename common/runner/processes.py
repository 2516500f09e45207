"""End a tree of processes, with those whose parents have died.

Ray starts raylets and workers in separate sessions and renames them, so neither a process group nor the
environment tells whose they are. A process that is a child subreaper (Linux, prctl(2)) becomes the parent of every
descendant whose own parent dies, so all that a run has started stays below it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Sequence

import psutil

TERMINATE_SECONDS = 6.0  # from SIGTERM to SIGKILL
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Make this process the parent of all its descendants whose own parents die."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies; for ``preexec_fn``."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def end_descendants(keep_status_of: int | None = None, grace: float = TERMINATE_SECONDS) -> int:
    """End every process below this one: SIGTERM, then SIGKILL for what is left after the grace time.

    Args:
        keep_status_of: Process id of a child whose exit status the caller still wants to read.
        grace: Seconds between the two signals.

    Returns:
        How many processes had to be ended.
    """
    victims = living_descendants(keep_status_of)
    ended = len(victims)
    _signal(victims, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and living_descendants(keep_status_of):
        time.sleep(0.05)
    while victims := living_descendants(keep_status_of):  # SIGKILL cannot be refused, so this ends
        _signal(victims, signal.SIGKILL)
        time.sleep(0.05)
    return ended


def living_descendants(keep_status_of: int | None = None) -> list[psutil.Process]:
    """Return the processes below this one that still run, and reap those that have ended."""
    living = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
            elif process.ppid() == os.getpid() and process.pid != keep_status_of:
                os.waitpid(process.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):
            continue
    return living


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
