"""A train.sh on this machine: started so that it outlives the server, and found again by the lock that it holds.

The lock of a job's folder is opened before the process is made and handed down to it, so it is held from its first
moment until the launcher ends, whatever happens to the server. A file named after the start says that the command was
reached. So after a crash: lock held, it runs; lock free and the file there, it has ended; no file, it never began.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from common.preflight.derived import DERIVED
from common.preflight.knobs import read_block
from training_platform.queue.run import run_of_job
from training_platform.queue.store import Job

LOCK, LOG = "lock", "launch.log"
LOG_TAIL = 64 << 10  # bytes of launch.log that errors are looked for in
_ERROR = re.compile(r"^error: (.+)$", re.MULTILINE)
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# The file is written under a temporary name and renamed: one that is there holds the whole number.
_FIRST = 'echo $$ >"$1.new" && mv "$1.new" "$1" && shift && exec "$@"'
_NOT_INHERITED = (
    "DRY_RUN",
    "RUN_DIR",
    "RESOLVED_KNOBS",
    "STAGE",
    "KNOBS_JSON",
    "RESUME_FROM",
    "JOB_UUID",
    "JOB_LAUNCH",
)


class LocalJobs:
    """Jobs on this machine, as the queue asks for them.

    Args:
        folder: With a folder for each job.
        base: Environment that jobs inherit.
    """

    name = "local"
    problem = ""

    def __init__(self, folder: Path, base: Mapping[str, str]):
        self.folder, self.base = folder, base
        self.launches = Launches()

    def open(self) -> None:
        """Nothing to do: what runs here is looked at when it is asked for."""

    close = open

    def start(self, job: Job, number: int, assigned: Sequence[str], added: Mapping[str, str], kit: Path) -> int | None:
        """Starts a job's train.sh; returns its process id.

        Args:
            job: The job.
            number: Of this start.
            assigned: The slots that it has been given.
            added: Variables that the queue sets.
            kit: Folder with the algorithms' folders.

        Raises:
            OSError: If it cannot be started.
        """
        script = kit / job.request["folder"] / "train.sh"
        if "gpu" in job.slots:
            added = {**added, "CUDA_VISIBLE_DEVICES": ",".join(assigned)}
        variables = environment(self.base, script, job.request["environment"], added)
        command = [str(script), *job.request["overrides"]]
        return self.launches.start(self.folder / job.uuid, number, command, variables, kit)

    def is_alive(self, job: Job) -> bool | None:
        """Whether the launcher of a job lives."""
        return is_held(self.folder / job.uuid)

    def has_begun(self, job: Job) -> bool:
        """Whether the last start has reached its command."""
        return pid_of(self.folder / job.uuid, job.launches) is not None or self.status(job) is not None

    def refusal(self, job: Job) -> str:
        """Why the last start was not taken; here one that fails has failed in `start`."""
        return ""

    def status(self, job: Job) -> int | None:
        """Exit status of train.sh, None when it is not known."""
        return self.launches.status(job.pid)

    def pid(self, job: Job) -> int | None:
        """Process of the last start."""
        return pid_of(self.folder / job.uuid, job.launches) or job.pid

    def run_of(self, job: Job, run_dir: Path) -> dict[str, Any]:
        """run.json, when the last start has written it; else empty."""
        pid = self.pid(job)
        run = run_of_job(job, run_dir)
        return run if pid is not None and run.get("pid") == pid else {}

    def lost(self, job: Job) -> str:
        """What of the machine has ended a job whose launcher is gone, "" when nothing has."""
        try:
            began = marker(self.folder / job.uuid, job.launches).stat().st_mtime
        except OSError:
            return ""
        return "the machine was restarted" if began < psutil.boot_time() - 1 else ""

    def said(self, job: Job) -> list[str]:
        """The errors of the last start; else its last line."""
        return said(self.folder / job.uuid)

    def stop(self, job: Job, kill: bool) -> None:
        """Signals a job: to end with a checkpoint left behind, or to end at once."""
        send(self.pid(job), signal.SIGKILL if kill else signal.SIGTERM)


class Launches:
    """Starts commands, and takes leave of those that have ended (else they would stay as zombies)."""

    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen] = {}

    def start(
        self, folder: Path, number: int, command: Sequence[str], environment: Mapping[str, str], cwd: Path
    ) -> int:
        """Starts a command in a separate session; returns its process id, which it keeps through every exec.

        Args:
            folder: Of the job.
            number: Of this start.
            command: What to run.
            environment: Of the process, whole.
            cwd: Where it runs.

        Raises:
            BlockingIOError: If an earlier start still runs.
            OSError: If it cannot be started.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with (folder / LOG).open("ab") as log:
                child = subprocess.Popen(
                    ["/bin/sh", "-c", _FIRST, "launch", str(marker(folder, number)), *command],
                    env=dict(environment),
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=[lock],
                )
        finally:
            os.close(lock)
        self._children[child.pid] = child
        return child.pid

    def status(self, pid: int | None) -> int | None:
        """The exit status of a command that this server has started; None when it runs, or another has started it."""
        for known, child in list(self._children.items()):
            if child.poll() is not None and known != pid:
                del self._children[known]
        child = self._children.get(pid) if pid else None
        if child is None or child.returncode is None:
            return None
        return child.returncode if child.returncode >= 0 else 128 - child.returncode


def marker(folder: Path, number: int) -> Path:
    """The file that says that a start has reached its command; holds the process id."""
    return folder / f"start.{number}"


def pid_of(folder: Path, number: int) -> int | None:
    """The process of a start, None when it was never reached."""
    try:
        return int(marker(folder, number).read_text())
    except (OSError, ValueError):
        return None


def is_held(folder: Path) -> bool:
    """Whether a launcher lives that was started from this folder."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def send(pid: int | None, number: signal.Signals) -> None:
    """Signals a launch: the script and its preflight, or the launcher that the script has become."""
    if pid:
        with suppress(ProcessLookupError):
            os.killpg(pid, number)


def said(folder: Path) -> list[str]:
    """The errors of the last start, as the preflight printed them; else its last line."""
    try:
        with (folder / LOG).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL))
            text = _ANSI.sub("", log.read().decode("utf-8", "replace"))
    except OSError:
        return []
    text = text.rpartition(HEAD)[2]
    lines = [line for line in text.splitlines()[1:] if line.strip()]
    return _ERROR.findall(text) or lines[-1:]


HEAD = "# start "


def write_head(folder: Path, number: int, time: str) -> None:
    """Heads what a start says in launch.log."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(f"{HEAD}{number}, {time}\n")


def environment(base: Mapping[str, str], script: Path, knobs: Mapping[str, str], added: Mapping[str, str]) -> dict:
    """The environment of a train.sh: the server's without knobs that are in it by chance, its tokens and addresses.

    Args:
        base: The server's.
        script: The train.sh.
        knobs: Of the job.
        added: What the queue sets.
    """
    left_out = {*read_block(script), *_NOT_INHERITED, *(one.name for one in DERIVED if one.reader != "library")}
    kept = {name: value for name, value in base.items() if name not in left_out and not name.startswith("PLATFORM_")}
    return {**kept, **knobs, **added}
