"""One process that gives inputs to one reader; `driver` starts it and tells what an end before its time means.

Processor time and waiting time of each input are limited by timers whose signals end the process itself, also inside
of C code that never comes back to Python; faulthandler says before that where it was.

    python -m tests.fuzz.child READER FILE                                one file, as after a failure
    python -m tests.fuzz.child READER FOLDER SEED FIRST COUNT SECONDS     inputs of a seed, written into the folder
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import time
from pathlib import Path
from random import Random

from tests.fuzz.readers import READERS, Reader

CPU_S = 1.0  # of one input: processor time, so that a busy machine makes no failure
WALL_S = 20.0
MEMORY = 300 * 2**20  # bytes that one input may add at the most
HARD_MEMORY = 3 * 2**30  # bytes of addresses after which allocating fails, so that no input takes the machine down


def limit_process() -> None:
    """End this process where it takes too long or too much."""
    faulthandler.enable()
    for number in (signal.SIGPROF, signal.SIGALRM):
        faulthandler.register(number, chain=True)  # then the signal's default: the process ends
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + HARD_MEMORY,) * 2)


def _memory(name: str) -> int:
    """A figure of this process in bytes: VmRSS, VmHWM (the most it ever was), VmSize."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def read_one(reader: Reader, path: Path) -> None:
    """Give one file to a reader, within the limits.

    Raises:
        MemoryError: If it took too much.
        Exception: What the reader raised and its callers do not expect.
    """
    most, before = _memory("VmHWM"), _memory("VmRSS")
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    try:
        reader.read(path)
    except reader.errors:
        pass
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    after = _memory("VmHWM")
    if after > most and after - before > MEMORY:
        raise MemoryError(f"took {(after - before) >> 20} MiB")


def make_input(reader: Reader, samples: list[bytes], seed: int, number: int) -> bytes:
    """The input of a seed with a number from 0; the first ones are the good samples as they are."""
    if number < len(samples):
        return samples[number]
    return reader.make(Random(f"{seed} {reader.name} {number}"), samples)


def main() -> None:
    """Read one file, or the inputs of a seed from a number on."""
    name, *rest = sys.argv[1:]
    reader = READERS[name]
    if len(rest) == 1:
        limit_process()
        read_one(reader, Path(rest[0]).absolute())
        return
    folder, seed, first, count, seconds = Path(rest[0]), *map(int, rest[1:4]), float(rest[4])
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = reader.samples()
    for sample in samples:  # what is loaded and cached at the first call counts for no input; good files must be read
        path.write_bytes(sample)
        reader.read(path)
    limit_process()
    end = time.monotonic() + seconds
    progress = os.open(folder / "number", os.O_RDWR | os.O_CREAT)
    for number in range(first, first + count):
        os.pwrite(progress, b"%-20d" % number, 0)
        path.write_bytes(make_input(reader, samples, seed, number))
        read_one(reader, path)
        if time.monotonic() > end:
            break
    os.pwrite(progress, b"%-20d" % (number + 1), 0)


if __name__ == "__main__":
    main()
