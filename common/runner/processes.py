"""The processes of a run: started with a mark in their environment, found by it, ended together.

Ray starts raylets and workers in sessions of their own, so a process group does not hold them; the environment
that they all inherit does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

MARK = "VERL_KIT_RUN"
TERMINATE_SECONDS = 8.0  # from SIGTERM to SIGKILL


def start(command: Sequence[str], environment: Mapping[str, str], mark: str, log: Path) -> subprocess.Popen:
    """Start a command in a session of its own, its output appended to a log.

    Args:
        command: Program and arguments.
        environment: Its environment, without the mark.
        mark: Identifies this attempt among all processes of the host.
        log: Receives stdout and stderr directly, so that nothing is lost when the launcher dies.
    """
    with log.open("ab") as stream:
        return subprocess.Popen(
            command,
            env={**environment, MARK: mark, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def find(mark: str) -> list[psutil.Process]:
    """Return the live processes that carry a mark, but not the caller."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def end(mark: str, grace: float = TERMINATE_SECONDS) -> int:
    """End every process that carries a mark: SIGTERM, then SIGKILL for what is left after the grace time.

    Args:
        mark: Of the attempt.
        grace: Seconds between the two signals.

    Returns:
        How many processes had to be ended.
    """
    victims = find(mark)
    ended = len(victims)
    _signal(victims, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while victims and time.monotonic() < deadline:
        time.sleep(0.1)
        victims = [process for process in victims if _alive(process)]
    for _ in range(20):  # a process may start another while it ends
        victims = find(mark)
        if not victims:
            return ended
        _signal(victims, signal.SIGKILL)
        time.sleep(0.1)
    return ended


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
