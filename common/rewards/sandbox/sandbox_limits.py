"""What the child does to itself before it runs a program: own namespaces, own user, resource limits, no rights.

Each mechanism is a function that raises OSError where the machine refuses it; `probe` really tries each of them in
a separate process. Namespaces: https://man7.org/linux/man-pages/man7/namespaces.7.html.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import resource
import struct
import sys
from collections.abc import Callable

from sandbox_paths import DEVICES, OWN_FOLDER, READABLE, python_folders

LINUX = sys.platform.startswith("linux")
if LINUX:
    import sandbox_kernel as kernel

MECHANISMS = ("namespaces", "uid", "nproc", "landlock", "seccomp", "rlimits")
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 4096, 16384, 1 << 18, 2
MOUNT_SETATTR, AT_RECURSIVE, ATTR_RDONLY, ATTR_NOSUID = 442, 0x8000, 1, 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPSET = {"x86_64": 126, "aarch64": 91}
NEW_ROOT = "/proc"  # where the new root is put together: a folder that always exists and never holds a Python


def enter_namespaces(network: bool) -> None:
    """Gives the processes started from here on their own process table, and this one its own mounts.

    Args:
        network: Whether to cut the network off too (slower; not needed where seccomp refuses sockets).

    Raises:
        OSError: Neither root nor user namespaces for plain users.
    """
    user, group, root = os.geteuid(), os.getegid(), os.geteuid() == 0
    flags = CLONE_NEWNS | CLONE_NEWPID | (CLONE_NEWNET if network else 0) | (0 if root else CLONE_NEWUSER)
    kernel.check(kernel.LIBC.unshare(flags), "unshare")
    if not root:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def build_root(disk_mb: int) -> None:
    """Swaps the file system for an empty one in memory that shows Python and `/usr` read-only, and nothing else.

    Args:
        disk_mb: Size of that file system in MiB: all that a run can write.

    Raises:
        OSError: The machine refuses one of the mounts.
    """
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", NEW_ROOT, "tmpfs", MS_NOSUID | MS_NODEV, f"size={disk_mb}m,nr_inodes=4096,mode=755")
    for path in [*READABLE, *python_folders(), *DEVICES]:
        _show(path)
    for path in (OWN_FOLDER, "/dev/shm"):
        os.makedirs(NEW_ROOT + path)
        os.chmod(NEW_ROOT + path, 0o1777)
    os.chdir(NEW_ROOT)
    here = ctypes.create_string_buffer(b".")
    kernel.syscall("pivot_root", PIVOT_ROOT[os.uname().machine], *[ctypes.addressof(here)] * 2)
    kernel.check(kernel.LIBC.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind)]
    result = kernel.LIBC.mount(*texts, ctypes.c_ulong(flags), None if data is None else data.encode())
    kernel.check(result, f"mount {target}")


def _show(path: str) -> None:
    """Makes one path of the machine visible below the new root, read-only with all that is mounted under it."""
    target = NEW_ROOT + path
    if os.path.islink(path):  # /lib -> usr/lib
        os.symlink(os.readlink(path), target)
        return
    if not os.path.exists(path):
        return
    os.makedirs(target if os.path.isdir(path) else os.path.dirname(target), exist_ok=True)
    if not os.path.isdir(path):
        open(target, "w").close()
    _mount(path, target, None, MS_BIND | MS_REC)
    attribute = ctypes.create_string_buffer(struct.pack("<QQQQ", ATTR_RDONLY | ATTR_NOSUID, 0, 0, 0), 32)
    name = ctypes.create_string_buffer(target.encode())
    arguments = (-100, ctypes.addressof(name), AT_RECURSIVE, ctypes.addressof(attribute), 32)
    kernel.syscall("mount_setattr", MOUNT_SETATTR, *arguments)


def own_uid(serial: int, users: int | None = None) -> int:
    """Gives a user number that belongs to nobody, another one for each run on this machine.

    Args:
        serial: A number of the run alone, up to 4,194,304, as that of its first process.
        users: How many user numbers there are; None looks into /proc.

    Returns:
        The user and group number.

    Raises:
        OSError: Not root, or a container with so few user numbers that none is free.
    """
    if os.geteuid() != 0:
        raise OSError("only root can switch users")
    if users is None:
        with open("/proc/self/uid_map") as file:
            users = sum(int(line.split()[2]) for line in file)
    if users > 1_100_000_000:
        return 1_000_000_000 + serial
    if users > 65_000:
        return 20_000 + serial % 40_000  # above the users of an image, below "nobody"
    raise OSError(f"this container knows only {users} user numbers")


def become(uid: int) -> None:
    """Gives up root for good: user, group and all further groups. Raises OSError."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_rights() -> None:
    """Gives up every capability, also those inside a user namespace, and the way to get new ones. Raises OSError."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS)
    header = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0), 8)
    nothing = ctypes.create_string_buffer(24)
    kernel.syscall("capset", CAPSET[os.uname().machine], ctypes.addressof(header), ctypes.addressof(nothing))


def set_rlimits(limits: dict, count_tasks: bool) -> None:
    """Sets the limits of `man 2 getrlimit`, soft and hard alike.

    Args:
        limits: `cpu_s` seconds, `memory_mb` MiB of address space, `disk_mb` MiB a file, `tasks` processes and threads.
        count_tasks: Whether to set `tasks`; the kernel counts a user's processes, and not those of root.

    Raises:
        OSError: The system refuses one. On macOS the address space is not even tried: it has no such limit.
    """
    bounds = {
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_FSIZE: limits["disk_mb"] << 20,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    if LINUX:
        bounds[resource.RLIMIT_STACK] = 64 << 20  # recursive programs need it
        bounds[resource.RLIMIT_AS] = limits["memory_mb"] << 20
    if count_tasks:
        bounds[resource.RLIMIT_NPROC] = limits["tasks"] + 4  # for the processes that watch the program
    for name, bound in bounds.items():
        hard = resource.getrlimit(name)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(name, (bound, bound))


def probe(limits: dict, bwrap: dict | None = None) -> dict[str, str]:
    """Tries each mechanism in a separate process.

    Args:
        limits: As for `set_rlimits`.
        bwrap: `sandbox_bwrap.facts()` where this runs inside bwrap, which has made the namespaces.

    Returns:
        For each of `MECHANISMS`, "" when it works, else why not.
    """
    reasons = dict.fromkeys(MECHANISMS, "only on Linux")
    reasons["rlimits"] = _attempt(lambda: set_rlimits(limits, False))
    if not LINUX:
        return reasons
    reasons["seccomp"] = _attempt(lambda: kernel.seccomp_apply(False, False))
    rules = (python_folders() + READABLE, DEVICES, OWN_FOLDER)
    reasons["landlock"] = _attempt(lambda: kernel.landlock_apply(kernel.landlock_ruleset(*rules)))
    seccomp = not reasons["seccomp"]
    reasons["namespaces"] = made_by_bwrap(limits) if bwrap else _attempt(lambda: _try_namespaces(limits, not seccomp))
    inside = not reasons["namespaces"]
    reasons["uid"] = _attempt(lambda: _try_uid(limits, inside, bwrap))
    if reasons["uid"] and not (inside and os.geteuid()):
        reasons["nproc"] = "the kernel counts processes only for a separate user"
    else:
        reasons["nproc"] = _attempt(lambda: _try_uid(limits, inside, bwrap, count=True))
    return reasons


def made_by_bwrap(limits: dict) -> str:
    """Looks whether this process is where `sandbox_bwrap.wrap` should have put it; returns "" or what is wrong."""
    space = os.statvfs(OWN_FOLDER)
    if os.getpid() != 1:
        return "it has not made the child process 1 of a separate process table"
    if not os.statvfs("/").f_flag & os.ST_RDONLY or os.path.exists("/proc"):
        return "it has not made a root folder that is read-only and empty"
    if space.f_blocks * space.f_frsize > limits["disk_mb"] << 20:
        return f"{OWN_FOLDER} is not a file system of {limits['disk_mb']} MiB"
    return ""


def _try_namespaces(limits: dict, network: bool) -> None:
    enter_namespaces(network)
    reason = _attempt(lambda: build_root(limits["disk_mb"]))
    if reason:
        raise OSError(reason)


def _try_uid(limits: dict, inside: bool, bwrap: dict | None, count: bool = False) -> None:
    """In the namespaces if there are any: can the new user still read Python's library, and start a thread?"""
    if inside and not bwrap:
        enter_namespaces(False)
    uid = own_uid(**(bwrap or {"serial": os.getpid()})) if not count or os.geteuid() == 0 else 0

    def inner() -> None:
        if inside and not bwrap:
            build_root(limits["disk_mb"])
        if uid:
            become(uid)
        open(os.__file__).close()
        if count:
            set_rlimits(limits, True)
            _thread.start_new_thread(int, ())

    reason = _attempt(inner)
    if reason:
        raise OSError(reason)


def _attempt(action: Callable[[], None]) -> str:
    """Runs `action` in a forked process; returns "" or what it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        message = b"\0"  # unlike a process that died silently
        try:
            action()
        except Exception as error:  # whatever it is, the answer is "does not work, because"
            message = (str(error) or type(error).__name__).encode()
        os.write(writer, message)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        message = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    return "" if message == "\0" else message or "the attempt was killed"
