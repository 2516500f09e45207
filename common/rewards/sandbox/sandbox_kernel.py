"""What the Linux kernel is asked to refuse to a program: files (Landlock) and system calls (seccomp).

Both go through ctypes, because the child has no packages. They need no rights, hold for every process the program
starts, and cannot be undone. Sources: https://docs.kernel.org/userspace-api/landlock.html and
https://docs.kernel.org/userspace-api/seccomp_filter.html; the numbers are those of the kernel's headers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38

# Landlock: these three have one number on every machine, like all system calls since 424.
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE, MAKE_REG, TRUNCATE = 1, 2, 4, 8, 1 << 5, 1 << 8, 1 << 14
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}  # by ABI version
READ = EXECUTE | READ_FILE | READ_DIR

# Calls that no answer to an exercise needs: (number on x86-64, number on ARM64), None where the call does not exist.
REFUSED = {
    "socket": (41, 198),
    # other processes' memory and files
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "setpriority": (141, 140),
    # new namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    # ways round the other rules, and parts of the kernel with a long record of holes
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "bpf": (321, 280),
    "userfaultfd": (323, 282), "perf_event_open": (298, 241), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # memory that outlives the process, or that RLIMIT_AS does not count; the log of the kernel
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "syslog": (103, 116),
    # changes to files that Landlock does not see
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setxattrat": (463, 463), "removexattrat": (466, 466), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "truncate": (76, 45),
}  # fmt: skip
SIGNALS = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
}  # fmt: skip
FORKS = {"fork": (57, None), "vfork": (58, None)}
PRETEND_OLD = {"clone3": (435, 435), "openat2": (437, 437)}  # "no such call": libc then uses clone and openat
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE_THREAD, CLONE_NEW_ANY, O_TRUNC_AND_MODE, O_TRUNC = 0x10000, 0x7E020000, 0o1003, 0o1000
O_ACCMODE = 3  # as a mode: Linux opens any file with it, without the right to read or write, and Landlock lets it
SOCKET_KIND, SOCK_STREAM = 0xF, 1


def check(result: int, what: str) -> int:
    """Turns the -1 of a C call into an OSError that names the call.

    Args:
        result: What the call returned.
        what: Name of the call, for the message.

    Returns:
        `result`, when it is not negative.

    Raises:
        OSError: With the call's errno.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, value: int = 1, pointer: int = 0) -> None:
    """Sets one property of this process; see `man 2 prctl`. Raises OSError."""
    zero = ctypes.c_ulong(0)
    check(LIBC.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(pointer), zero, zero), f"prctl({option})")


def syscall(what: str, number: int, *arguments: int) -> int:
    """Makes a system call that libc has no function for; `what` names it in the OSError that it raises."""
    return check(LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments)), what)


def landlock_ruleset(readable: list[str], writable: list[str], folder: str, folder_rights: int = -1) -> int:
    """Makes a set of file rules: everything not named is refused.

    Args:
        readable: Folders and files to read and run, whole trees. Missing ones are left out.
        writable: Single device files to read and write.
        folder: The program's own folder.
        folder_rights: Landlock's bits for `folder`; -1 is all of them.

    Returns:
        A file descriptor for `landlock_apply`.

    Raises:
        OSError: The kernel has no Landlock (older than 5.13, or switched off at boot).
    """
    version = syscall("landlock_create_ruleset", LANDLOCK_CREATE, 0, 0, 1)
    rights = RIGHTS[min(version, 5)]
    # From 4 on also TCP ports, from 6 on also signals and abstract sockets to processes outside.
    attribute = struct.pack("<QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    buffer = ctypes.create_string_buffer(attribute)
    ruleset = syscall("landlock_create_ruleset", LANDLOCK_CREATE, ctypes.addressof(buffer), size, 0)
    for path in readable:
        _allow(ruleset, path, READ & rights)
    for path in writable:
        _allow(ruleset, path, (READ_FILE | WRITE_FILE) & rights)
    _allow(ruleset, folder, rights & folder_rights)
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
    rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, handle))
    syscall("landlock_add_rule", LANDLOCK_ADD, ruleset, 1, ctypes.addressof(rule), 0)
    os.close(handle)


def landlock_apply(ruleset: int) -> None:
    """Puts this process and all it starts under the rules for good. Raises OSError."""
    prctl(PR_SET_NO_NEW_PRIVS)
    syscall("landlock_restrict_self", LANDLOCK_RESTRICT, ruleset, 0)


def seccomp_apply(forks: bool, signals: bool) -> None:
    """Installs the system call filter for good: no socket, nothing of `REFUSED`, no new namespaces.

    Args:
        forks: Whether the program may start processes. Threads are always allowed.
        signals: Whether it may send signals (only where it sees no processes but its own).

    Raises:
        OSError: The kernel or a container refuses filters, or the machine is neither x86-64 nor ARM64.
    """
    filters = _filter(forks, signals)
    code = b"".join(struct.pack("<HBBI", *line) for line in filters)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(filters), ctypes.addressof(buffer)))
    prctl(PR_SET_NO_NEW_PRIVS)
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program))


def _filter(forks: bool, signals: bool) -> list[tuple[int, int, int, int]]:
    """Classic BPF, as (code, jump if true, jump if false, operand); jumps count lines to skip."""
    machine = os.uname().machine
    if machine not in AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"no system call numbers for {machine!r}")
    arm = machine == "aarch64"
    load, equal, at_least, any_bit, keep, give = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
    allow, refuse, missing, kill = (
        (give, 0, 0, value)
        for value in (0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000)
    )  # fmt: skip
    number, arch, low_word = (load, 0, 0, 0), (load, 0, 0, 4), lambda i: (load, 0, 0, 16 + 8 * i)
    lines = [arch, (equal, 1, 0, AUDIT_ARCH[machine]), kill, number, (at_least, 0, 1, 0x40000000), refuse]
    refused = {**REFUSED, **({} if forks else FORKS), **({} if signals else SIGNALS)}
    for table, answer in ((refused, refuse), (PRETEND_OLD, missing)):
        for numbers in table.values():
            if numbers[arm] is not None:
                lines += [(equal, 0, 1, numbers[arm]), answer]
    # clone: no new namespaces; and only threads, where processes are not allowed.
    clone = [low_word(0), (any_bit, 0, 1, CLONE_NEW_ANY), refuse]
    clone += [] if forks else [(any_bit, 1, 0, CLONE_THREAD), refuse]
    # prlimit64: only for the process itself. open: no emptying of a file that may only be read.
    prlimit = [low_word(0), (equal, 1, 0, 0), refuse]
    opens = [
        [low_word(i), (keep, 0, 0, O_ACCMODE), (equal, 0, 1, O_ACCMODE), refuse]
        + [low_word(i), (keep, 0, 0, O_TRUNC_AND_MODE), (equal, 0, 1, O_TRUNC), refuse]
        for i in (1, 2)
    ]
    # socketpair: streams only, for asyncio. A datagram socket can be sent to any Unix address afterwards.
    pair = [low_word(1), (keep, 0, 0, SOCKET_KIND), (equal, 1, 0, SOCK_STREAM), refuse]
    calls = ((56, 220), clone), ((302, 261), prlimit), ((2, None), opens[0]), ((257, 56), opens[1]), ((53, 199), pair)
    for call, body in calls:
        if call[arm] is not None:
            lines += [(equal, 0, len(body) + 1, call[arm]), *body, allow]
    return [*lines, allow]
