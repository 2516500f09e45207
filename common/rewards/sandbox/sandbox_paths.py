"""What a program may see of the machine's files; for the trainer's side of the sandbox and for the child's."""

from __future__ import annotations

import os
import sys

READABLE = ["/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/localtime"]
DEVICES = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"]
OWN_FOLDER = "/tmp"  # the program's folder, as it sees it


def python_folders() -> list[str]:
    """Lists the folders of the running Python that are not below `/usr`."""
    folders = {os.path.realpath(path) for path in (sys.base_prefix, sys.base_exec_prefix)}
    return sorted(folder for folder in folders if folder not in ("/", "/usr") and not folder.startswith("/usr/"))
