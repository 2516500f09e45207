"""What a foreign checkpoint would run when it is loaded: the functions that its pickles name, read without unpickling.

verl loads a checkpoint that is resumed with ``weights_only=False``, so that a file can run any code (its
`FSDPCheckpointManager.load_checkpoint` and `PPOTrainer._load_checkpoint`).
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

# What checkpoints of verl hold: tensors, sharded tensors, numpy arrays (of random states), containers.
KNOWN = re.compile(
    r"""collections\.(OrderedDict|defaultdict|deque|Counter) | _codecs\.encode
    | (builtins|__builtin__)\.(set|frozenset|dict|list|tuple|int|float|bool|bytearray|bytes|complex|slice)
    | numpy\.(dtype|ndarray|dtypes\.\w+) | numpy\.(_?core)\.multiarray\.(_reconstruct|scalar)
    | numpy\.random\._pickle\.__\w+_ctor
    | torch\.(Size|device|dtype|bool|bfloat16|\w+Storage|(float|int|uint|complex)\d+\w*)
    | torch\.storage\.\w+Storage | torch\._utils\._rebuild_\w+ | torch\._tensor\._rebuild_\w+
    | torch\.serialization\._get_layout | torch\.nn\.parameter\.Parameter
    | torch\.distributed\.(_?tensor|device_mesh|_mesh_layout)(\.\w+)*\.[A-Z_]\w*""",
    re.VERBOSE,
)


def strange_calls(folder: Path) -> list[str]:
    """``file: module.name`` of what the pickles below a folder name and no checkpoint of verl needs, sorted.

    Files that are not pickles, or cannot be read as such, are named too.
    """
    found = []
    for file in sorted([*folder.rglob("*.pt"), *folder.rglob("*.pkl")]):  # .pkl: the queue of an asynchronous run
        try:
            names = set(_names(file))
        except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            found.append(f"{file.relative_to(folder)}: cannot be read ({error})")
            continue
        found += [f"{file.relative_to(folder)}: {name}" for name in sorted(names) if not is_known(name)]
    return found


def is_known(name: str) -> bool:
    """Whether a dotted name is of those that checkpoints of verl hold."""
    return KNOWN.fullmatch(name) is not None


def _names(file: Path) -> Iterator[str]:
    if not zipfile.is_zipfile(file):
        yield from _globals(file.read_bytes())
        return
    with zipfile.ZipFile(file) as archive:
        for member in archive.namelist():
            if member.endswith(".pkl"):
                yield from _globals(archive.read(member))


def _globals(data: bytes) -> Iterator[str]:
    """The dotted names that GLOBAL and STACK_GLOBAL of the pickles in ``data`` look up."""
    at = 0
    while at < len(data):  # a legacy file holds several, and then tensors
        texts: list[str] = []
        memo: dict[int, str] = {}
        for opcode, argument, position in pickletools.genops(data[at:]):
            if opcode.name in ("GLOBAL", "INST"):
                yield argument.replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(texts[-2:]) if len(texts) > 1 else "unknown.name"
            elif isinstance(argument, str):
                texts.append(argument)
            elif opcode.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT") and texts:
                memo[len(memo) if argument is None else argument] = texts[-1]
            elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
                texts.append(memo.get(argument, "unknown"))
            end = position
        at += end + 1
        if data[at : at + 1] != b"\x80":
            return
