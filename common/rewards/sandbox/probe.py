"""Tries every protection of the sandbox with a program that attacks it, and says what held."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

from common.rewards.sandbox import attacks
from common.rewards.sandbox.execute import Limits, execute

LIMITS = Limits(timeout_s=5, total_s=8, memory_mb=512, disk_mb=8, tasks=16)

HOW = {  # for each protection the mechanisms that give it, the strongest first; "" needs none
    "wall_time": {"": "the watching process kills it; the parent kills both"},
    "cpu_time": {"rlimits": "RLIMIT_CPU"},
    "memory": {"rlimits": "RLIMIT_AS, for each process"},
    "processes": {"seccomp": "seccomp refuses new processes", "nproc": "RLIMIT_NPROC of a separate user"},
    "leftovers": {
        "namespaces": "its process table ends with it",
        "uid": "all processes of its user are killed",
        "seccomp": "seccomp refuses new processes",
        "": "its process group is killed",
    },
    "output": {"": "no more is read than allowed, then it is killed"},
    "disk": {"namespaces": "a file system in memory, of fixed size", "rlimits": "RLIMIT_FSIZE; its folder is watched"},
    "write": {"namespaces": "sees only its own file system", "landlock": "Landlock", "uid": "a separate user"},
    "read": {"namespaces": "sees only Python and /usr", "landlock": "Landlock"},
    "network": {"seccomp": "seccomp refuses socket()", "namespaces": "a separate network", "landlock": "Landlock"},
    "environment": {"namespaces": "starts empty, no /proc", "landlock": "starts empty, no /proc", "": "starts empty"},
    "signals": {"namespaces": "sees no other process", "seccomp": "seccomp refuses kill()", "uid": "a separate user"},
    "privileges": {"": "PR_SET_NO_NEW_PRIVS, no capabilities"},
}


def try_all(plan: list[str], reasons: dict[str, str]) -> dict[str, tuple[bool, str]]:
    """Runs every attack.

    Args:
        plan: The mechanisms to run them under.
        reasons: For each mechanism "" or why it does not work here.

    Returns:
        For each protection whether it held, and by what means, or what got through and which mechanism would stop it.
    """
    found = {}
    for name, verdict in _verdicts(plan):
        means = HOW[name]
        if verdict == "held":
            key, text = next((pair for pair in means.items() if not pair[0] or pair[0] in plan), ("", "by the system"))
            found[name] = (True, text + " (bwrap)" * (key == "namespaces" and "bwrap" in plan))
        else:
            lacking = "; ".join(f"{key}: {reasons[key]}" for key in means if key and reasons.get(key))
            found[name] = (False, verdict + (f" [{lacking}]" if lacking else ""))
    return found


def _verdicts(plan: list[str]) -> Iterator[tuple[str, str]]:
    yield "wall_time", _expect("timeout", "while True: pass", plan, replace(LIMITS, timeout_s=0.3))
    yield "cpu_time", _tell(attacks.CPU, plan)
    yield "memory", _tell(attacks.MEMORY, plan)
    yield "processes", _tell(attacks.FORK, plan)
    yield "leftovers", _leftovers(plan)
    yield "output", _expect("output", "while True: print('x' * 1000)", plan, LIMITS)
    yield "disk", _disk(plan)
    yield "write", _write(plan)
    yield "read", _read(plan)
    yield "network", _network(plan)
    yield "environment", _tell(attacks.ENVIRONMENT, plan)
    yield "signals", _signals(plan)
    yield "privileges", _tell(attacks.PRIVILEGES, plan) if sys.platform.startswith("linux") else "only on Linux"


def _run(program: str, plan: list[str], limits: Limits = LIMITS, token: str = "") -> dict:
    test = {"kind": "stdin", "input": "", "limit": 4096}
    return execute(program, [test], limits, plan, token)[0]


def _tell(program: str, plan: list[str]) -> str:
    result = _run(program, plan)
    return result["out"].strip() or f"the attack ended with {result['status']!r}"


def _expect(status: str, program: str, plan: list[str], limits: Limits) -> str:
    got = _run(program, plan, limits)["status"]
    return "held" if got == status else f"the attack ended with {got!r}"


def _disk(plan: list[str]) -> str:
    result = _run(attacks.DISK, plan)
    return "held" if result["status"] == "disk" else result["out"].strip() or result["status"]


def _leftovers(plan: list[str]) -> str:
    token = "leftover-" + os.urandom(8).hex()
    forks = "namespaces" in plan or "uid" in plan  # `run` allows forks only with these
    verdict = _run(attacks.DAEMON, plan, replace(LIMITS, forks=forks), token)["out"].strip()
    return "a process lived on" if processes_with(token) else verdict


def processes_with(token: str) -> list[str]:
    """Finds processes by a word of their command line.

    Args:
        token: The word.

    Returns:
        Their command lines.
    """
    lines = []
    if os.path.isdir("/proc/self"):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                lines.append(file.read().decode(errors="replace"))
    else:
        lines = subprocess.run(["ps", "-axo", "command"], capture_output=True, text=True, timeout=10).stdout.split("\n")
    return [line for line in lines if token in line]


def _write(plan: list[str]) -> str:
    name = "written-" + os.urandom(6).hex()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        folders = [folder, "/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~")]
        paths = list(dict.fromkeys(os.path.join(place, name) for place in folders))  # HOME may be /tmp
        verdict = _tell(attacks.WRITE.replace("PATHS", repr(paths)), plan)
        written = [path for path in paths if os.path.exists(path)]
        for path in written:
            os.remove(path)
    return f"wrote {', '.join(written)}" if written else verdict


def _read(plan: list[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        secret = os.path.join(folder, "secret")
        with open(secret, "w") as file:
            file.write("secret")
        os.chmod(folder, 0o755)
        os.chmod(secret, 0o644)
        return _tell(attacks.READ.replace("PATHS", repr([secret, "/etc/passwd", folder])), plan)


def _network(plan: list[str]) -> str:
    kind = socket.SOCK_DGRAM
    with (
        socket.socket() as stream,
        socket.socket(type=kind) as datagram,
        socket.socket(socket.AF_UNIX, kind) as file,
        socket.socket(socket.AF_UNIX, kind) as abstract,
        tempfile.TemporaryDirectory() as folder,
    ):
        os.chmod(folder, 0o755)
        path, name = os.path.join(folder, "socket"), "\0" + os.urandom(8).hex()
        for server, address in ((file, path), (abstract, name)):
            server.bind(address)
            server.setblocking(False)
        os.chmod(path, 0o777)
        for server in (stream, datagram):
            server.bind(("127.0.0.1", 0))
            server.setblocking(False)
        stream.listen()
        ports = {int(server.type): server.getsockname()[1] for server in (stream, datagram)}
        program = attacks.NETWORK.replace("PORTS", repr(ports)).replace("SOCKETS", repr([path, name]))
        verdict = _tell(program, plan)
        ways = {"TCP": stream.accept, "UDP": lambda: datagram.recv(1)}
        ways |= {"a Unix socket": lambda: file.recv(1), "an abstract socket": lambda: abstract.recv(1)}
        for way, receive in ways.items():
            with contextlib.suppress(BlockingIOError):
                receive()
                return f"reached this machine by {way}"
    return verdict


def _signals(plan: list[str]) -> str:
    victim = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        verdict = _tell(attacks.SIGNAL.replace("VICTIM", str(victim.pid)), plan)
        time.sleep(0.02)
        return verdict if victim.poll() is None else "killed a process of the user"
    finally:
        victim.kill()
        victim.communicate()
