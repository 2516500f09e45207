"""Files of a run and of a model: written whole or not at all, as open as the umask says; others' opened with care."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parents[1]  # of the repository


def outputs_folder(environment: Mapping[str, str]) -> Path:
    """The folder of runs: ``OUTPUTS_DIR``, meant from where the user is, else ``outputs/`` of the repository."""
    given = environment.get("OUTPUTS_DIR")
    if not given:
        return ROOT / "outputs"
    return Path(os.path.abspath(Path(environment.get("CALLER_DIR", ".")) / Path(given).expanduser()))


def write_atomically(path: Path, text: str, executable: bool = False) -> None:
    """Write a text file under a temporary name and rename it, so that a reader sees the old or the new one, never half.

    Who may read it is what the umask says, as for any file of the user.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777 if executable else 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_as_umask(folder: Path, pattern: str, like: str) -> None:
    """Give files the mode of another of their folder that was made by the umask; safetensors makes its files 0600."""
    mode = (folder / like).stat().st_mode & 0o777
    for path in folder.glob(pattern):
        path.chmod(mode)


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
