"""Opening files of runs, which others may have made: plain files only, no links, no pipes that block."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path) -> BinaryIO:
    """Open a plain file for reading, unbuffered.

    Raises:
        OSError: If it is a link, a pipe, a device or a folder, or cannot be opened; never waits.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{Path(path).name} is not a plain file")
        return os.fdopen(handle, "rb", buffering=0)
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | Path, limit: int) -> bytes:
    """The first bytes of a plain file, at most `limit`; raises as `open_regular`."""
    with open_regular(path) as stream:
        parts, left = [], limit
        while left > 0 and (part := stream.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
