"""Starts processes that read inputs, and says of the input that ended one what it did and how to see it again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.readers import READERS

ROOT = Path(__file__).resolve().parents[2]
ENDS = {
    -signal.SIGPROF: "took more than a second of processor time",
    -signal.SIGALRM: "waited for more than 20 seconds",
    -signal.SIGSEGV: "crashed the process (SIGSEGV)",
    -signal.SIGABRT: "crashed the process (SIGABRT)",
    -signal.SIGKILL: "was killed (out of memory?)",
}


@dataclass(frozen=True)
class Failure:
    """An input that a reader did not survive."""

    reader: str
    seed: int
    number: int
    path: Path  # the input, kept
    what: str
    said: str  # by the process at its end

    def __str__(self) -> str:
        child = f".venv/bin/python -m tests.fuzz.child {self.reader}"
        return (
            f"{self.reader}: input {self.number} of FUZZ_SEED={self.seed} {self.what}\n{self.said}\n"
            f"it has {self.path.stat().st_size:,} bytes and begins {self.path.read_bytes()[:200]!r}\n"
            f"read it again:  {child} {self.path}\n"
            f"make it again:  {child} FOLDER {self.seed} {self.number} 1 1"
        )


def run(name: str, seed: int, first: int, count: int, seconds: float, folder: Path) -> tuple[int, Failure | None]:
    """Give inputs to a reader in a separate process.

    Args:
        name: Of the reader.
        seed: Of the inputs.
        first: Number of the first input.
        count: Of inputs at the most.
        seconds: After which no other is begun.
        folder: To work in; inputs that failed stay there.

    Returns:
        Number of the first input that was not read, and the failure if that is why.
    """
    command = [sys.executable, "-m", "tests.fuzz.child", name, folder, seed, first, count, seconds]
    (folder / "number").unlink(missing_ok=True)
    ended = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT), "ARROW_DEFAULT_MEMORY_POOL": "system"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds + 120,
    )
    said = ended.stderr.decode(errors="replace")
    if not (folder / "number").is_file():
        raise RuntimeError(f"{name}: did not come to the first input; a good sample is not read?\n{said[-3000:]}")
    number = int((folder / "number").read_bytes())
    if ended.returncode == 0:
        return number, None
    made = folder / READERS[name].file
    kept = folder / f"failed-{number}" / made.name
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(made, kept)
    what = ENDS.get(ended.returncode, f"raised what no caller expects (status {ended.returncode})")
    return number + 1, Failure(name, seed, number, kept, what, said[-2500:].rstrip())
