"""Runs one program, confined, with exactly the given mechanisms; `run` chooses them."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import math
import os
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from common.rewards.sandbox import sandbox_bwrap

BOOT = "import sys; sys.path.append(sys.argv[1]); import sandbox_child; sys.path.pop(); sandbox_child.main()"
GRACE = 20.0  # seconds to start and end, on top of its own limit; then the parent kills it
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_threads = threading.BoundedSemaphore(CORES)


class SandboxError(RuntimeError):
    """The sandbox itself does not work, or lacks a protection that is required."""


@dataclass(frozen=True)
class Limits:
    """What one run may use.

    Attributes:
        timeout_s: Seconds for one test, wall clock and (rounded up) CPU.
        total_s: Seconds for all tests of one program together.
        memory_mb: MiB of address space for each process. About 30 of them are Python itself.
        disk_mb: MiB that it may write.
        tasks: Processes and threads at one time.
        forks: Whether it may start processes at all (threads it always may).
        stop_early: Leave the rest out after the first test that ends in anything but "ok".
    """

    timeout_s: float = 6.0
    total_s: float = 30.0
    memory_mb: int = 1024
    disk_mb: int = 32
    tasks: int = 32
    forks: bool = False
    stop_early: bool = False

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not isinstance(value, bool) and not (isinstance(value, (int, float)) and 0 < value < math.inf):
                raise ValueError(f"{name}={value!r} must be a positive number")


@functools.lru_cache(maxsize=1)
def reasons() -> dict[str, str]:
    """Asks the child which mechanisms work here: for each "" or why not. Raises SandboxError.

    bwrap is used where it works and takes nothing away that works without it.
    """
    plain = _ask_child()
    if sandbox_bwrap.find() is None:
        return {**plain, "bwrap": "bwrap (Debian package bubblewrap) is not on PATH"}
    try:
        inside = _ask_child(bwrap=sandbox_bwrap.facts())
    except SandboxError as error:  # for instance no user namespaces for plain users
        return {**plain, "bwrap": str(error)}
    lost = [f"{name}: {inside[name]}" for name, reason in plain.items() if inside[name] and not reason]
    return {**plain, "bwrap": "missing inside it: " + "; ".join(lost)} if lost else {**inside, "bwrap": ""}


def _ask_child(**more: dict) -> dict[str, str]:
    report = _spawn({"probe": True, "limits": _as_job(Limits()), **more}, GRACE, "probe")
    if "mechanisms" not in report:
        raise SandboxError(f"cannot find out what this machine offers: {report['warning']}")
    return report["mechanisms"]


def plan() -> list[str]:
    """Lists the mechanisms that every run uses on this machine; a run in which one of them fails is an error."""
    return [name for name, reason in reasons().items() if not reason]


def execute(program: str, tests: list[dict], limits: Limits, plan: list[str], token: str = "") -> list[dict]:
    """Runs a program with exactly the mechanisms of `plan`; `run` is this with all that the machine has.

    Args:
        program: Python source.
        tests: As for `run`.
        limits: As for `run`.
        plan: Names of mechanisms.
        token: A word on the command line of all processes of this run, to find them by.

    Returns:
        As `run`.

    Raises:
        SandboxError: The sandbox itself failed.
    """
    if not tests:
        return []
    job = {"program": program, "tests": tests, "limits": _as_job(limits), "plan": plan}
    if "bwrap" in plan:
        job["bwrap"] = sandbox_bwrap.facts()
    with _threads, _machine_slot(), contextlib.ExitStack() as stack:
        if "namespaces" not in plan:  # there it gets its own file system
            folder = tempfile.TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True)
            job["folder"] = os.path.realpath(stack.enter_context(folder))
        report = _spawn(job, limits.total_s + GRACE, token)
    results = report.get("results", [])
    if "warning" in report:
        logging.getLogger(__name__).warning("A program was stopped: %s", report["warning"])
    rest = {"status": report.get("status", "not run"), "out": ""}
    return results + [dict(rest) for _ in tests[len(results) :]]


def _as_job(limits: Limits) -> dict:
    return {**asdict(limits), "cpu_s": math.ceil(limits.total_s)}


def _spawn(job: dict, seconds: float, token: str) -> dict:
    """Starts the child with one job and waits for its report, `seconds` at the most."""
    python = getattr(sys, "_base_executable", None) or sys.executable
    flags = ["-I", "-S", "-X", "utf8"] + (["-B"] if sys.dont_write_bytecode else [])
    code = sandbox_bwrap.CODE if "bwrap" in job else sandbox_bwrap.HERE
    command = [python, *flags, "-c", BOOT, code, token or secrets.token_hex(4)]
    if "bwrap" in job:
        try:
            command = sandbox_bwrap.wrap(command, job["limits"]["disk_mb"])
        except FileNotFoundError as error:
            raise SandboxError(str(error)) from error
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env={}, cwd="/", close_fds=True, start_new_session=True
    )
    try:
        out, errors = child.communicate(json.dumps(job).encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        # The program dies with the child: by its process table, or by PR_SET_PDEATHSIG.
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return {"status": "timeout", "warning": f"the sandbox gave no report within {seconds:g} s and was killed"}
    killer = child.returncode - 128 if "bwrap" in job and child.returncode > 128 else -child.returncode
    if killer > 0:  # out of memory, or a program that may send signals on this machine
        return {"status": "crash", "warning": f"the sandbox was killed by signal {killer}"}
    try:
        report = json.loads(out)
    except ValueError:
        report = {"error": errors.decode(errors="replace").strip()[-500:] or f"exit status {child.returncode}"}
    if "error" in report:
        raise SandboxError(f"the sandbox failed: {report['error']} (mechanisms: {', '.join(job.get('plan', []))})")
    return report


@contextlib.contextmanager
def _machine_slot() -> Iterator[None]:
    """Holds one of as many locks as there are cores, shared with the other processes of this user.

    verl has several reward workers, and programs that share a core would run into their time limits.
    """
    folder = _slots_folder()
    if folder is None:
        yield
        return
    first = time.monotonic_ns()  # not all begin with the same lock
    while True:
        for i in range(CORES):
            with open(os.path.join(folder, str((first + i) % CORES)), "w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield
                return
        time.sleep(0.01)


@functools.cache
def _slots_folder() -> str | None:
    """Where the locks are; None where somebody else has made the folder: programs then wait for each other less."""
    place = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    if not os.access(place, os.W_OK):
        place = tempfile.gettempdir()
    folder = os.path.join(place, f"program-slots-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
        return folder
    logging.getLogger(__name__).warning("%s is not this user's; programs run without waiting for a free core", folder)
    return None
