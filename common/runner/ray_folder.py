"""Ray's folder: Ray opens its logs and sockets to every user of the machine, so a folder of this user holds them."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping


def ray_folder(environment: Mapping[str, str]) -> str:
    """The value of RAY_TMPDIR for a run: the one that is set, else a folder that only this user may enter.

    Ray 2.60 makes the folders of a session with mode 0777 whatever the umask (``try_make_directory_shared`` in
    ray/_common/utils.py): others could read what the trainer prints, and put their sockets in place of Ray's.
    """
    given = environment.get("RAY_TMPDIR")
    if given:
        return given
    base = environment.get("TMPDIR") or "/tmp"
    folder = os.path.join(base, f"ray-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return folder
    return tempfile.mkdtemp(prefix="ray-", dir=base)  # somebody else has made it, or opened it
