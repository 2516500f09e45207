"""Starts the sandbox's child inside bubblewrap (https://github.com/containers/bubblewrap), where it is installed.

bwrap then makes the namespaces and the file system, in place of the child: code that many look at, and which some
systems allow to make user namespaces where they refuse it to Python (AppArmor profiles, a setuid bwrap). The network
is cut off by a namespace too. All else, seccomp, Landlock, limits and the program's own user, stays the child's.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil

from common.rewards.sandbox.sandbox_paths import DEVICES, OWN_FOLDER, READABLE, python_folders

HERE = os.path.dirname(os.path.abspath(__file__))
CODE = "/sandbox"  # where the child's modules are inside
MODULES = ("child", "kernel", "limits", "paths", "program")
# The child has no /proc to say this in: when memory runs out, the kernel shall take it and not the trainer.
KILL_FIRST = 'echo 1000 2>/dev/null >/proc/self/oom_score_adj; exec "$@"'


def find() -> str | None:
    """Returns the path of bwrap, None where it is not on PATH."""
    return shutil.which("bwrap")


def wrap(command: list[str], disk_mb: int) -> list[str]:
    """Puts bwrap before a command.

    Args:
        command: What to run inside, with absolute paths; it is process 1 of its own process table.
        disk_mb: Size in MiB of the only folder that can be written.

    Returns:
        The whole command.

    Raises:
        FileNotFoundError: bwrap was there before, and is not any more.
    """
    bwrap = find()
    if bwrap is None:
        raise FileNotFoundError("bwrap is not on PATH any more")
    options = ["--die-with-parent", "--as-pid-1", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    for path in python_folders():  # else bwrap closes the folders above to others where this one is closed
        options += ["--dir", os.path.dirname(path)]
    for path in [*READABLE, *python_folders()]:
        options += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind-try", path, path]
    for path in DEVICES:
        options += ["--dev-bind", path, path]
    for path in _code():
        options += ["--ro-bind", path, CODE + path.removeprefix(HERE)]
    options += ["--perms", "1777", "--size", str(disk_mb << 20), "--tmpfs", OWN_FOLDER]
    options += ["--symlink", OWN_FOLDER, "/dev/shm", "--remount-ro", "/", "--"]
    return ["/bin/sh", "-c", KILL_FIRST, "sh", bwrap, *options, *command]


def _code() -> list[str]:
    """Files of the child's modules: nothing else of this folder is shown, as it may hold answers."""
    sources = [os.path.join(HERE, f"sandbox_{name}.py") for name in MODULES]
    compiled = [importlib.util.cache_from_source(path) for path in sources]
    return sources + [path for path in compiled if path.startswith(HERE) and os.path.exists(path)]


def facts() -> dict:
    """What the child cannot detect inside: its own number on this machine, and how many users there are."""
    with open("/proc/self/uid_map") as file:
        users = sum(int(line.split()[2]) for line in file)
    return {"serial": 1 + secrets.randbelow(4_000_000), "users": users}
