"""What a machine does: GPUs through NVML, CPU, memory and disk through psutil; and a file of a run that keeps it.

The monitor looks at the machine that it runs on. Of a run on several machines each launcher writes what its own does to
``<run>/machines/<rank>.jsonl``, where the monitor reads it.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from common.files import write_atomically

FOLDER = "machines"  # of a run
EVERY = 10.0  # seconds between two lines of a file
KEEP = 3600.0  # seconds


@dataclass(frozen=True)
class Process:
    """A process on a GPU: its id, its program's name, GPU memory in bytes (None: not told)."""

    pid: int
    name: str
    memory: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU; what the driver does not tell is None.

    Args:
        index: As in CUDA_VISIBLE_DEVICES.
        name: Of the model.
        use: Percent of the time.
        memory: Bytes in use.
        total: Bytes it has.
        temperature: Degrees Celsius.
        power: Watts.
        limit: Watts it may draw.
        processes: Those that compute on it.
    """

    index: int
    name: str
    use: float | None = None
    memory: int | None = None
    total: int | None = None
    temperature: float | None = None
    power: float | None = None
    limit: float | None = None
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True)
class Moment:
    """The machine at one time (seconds since 1970); memory and disk in bytes, CPU in percent of all cores."""

    time: float
    cpu: float
    memory: int
    memory_total: int
    disk: int
    disk_total: int
    gpus: tuple[Gpu, ...] = field(default=())


class MachineUse:
    """Looks at this machine.

    Args:
        folder: The disk that it is on is watched.

    Attributes:
        gpu_problem: Why there are no GPUs, "" when there are; known after the first look.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.gpu_problem = ""
        self._handles: list | None = None

    def look(self) -> Moment:
        """The machine now; CPU since the last look."""
        if self._handles is None:
            self._open_nvml()
        memory, disk = psutil.virtual_memory(), _disk(self.folder)
        gpus = tuple(_gpu(index, handle) for index, handle in enumerate(self._handles or []))
        used = memory.total - memory.available
        return Moment(time.time(), psutil.cpu_percent(), used, memory.total, disk.used, disk.total, gpus)

    def _open_nvml(self) -> None:
        self._handles = []
        psutil.cpu_percent()  # the first call only starts its clock
        try:
            import pynvml

            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        except Exception as error:  # no library, no driver, no right: pynvml has a class for each
            self.gpu_problem = str(error) or type(error).__name__


def _disk(folder: Path):
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder)


def _gpu(index: int, handle) -> Gpu:
    import pynvml

    def ask(name: str, *arguments):
        """What NVML says, None where this GPU or driver does not tell."""
        try:
            return getattr(pynvml, name)(handle, *arguments)
        except pynvml.NVMLError:
            return None

    name, use, memory = ask("nvmlDeviceGetName"), ask("nvmlDeviceGetUtilizationRates"), ask("nvmlDeviceGetMemoryInfo")
    power, limit = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetEnforcedPowerLimit")
    running = ask("nvmlDeviceGetComputeRunningProcesses") or []
    return Gpu(
        index=index,
        name=name.decode() if isinstance(name, bytes) else name or "?",
        use=use.gpu if use else None,
        memory=memory.used if memory else None,
        total=memory.total if memory else None,
        temperature=ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
        power=power / 1000 if power is not None else None,
        limit=limit / 1000 if limit is not None else None,
        processes=tuple(Process(one.pid, _program(one.pid), one.usedGpuMemory) for one in running),
    )


def _program(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "?"


# ---- the file of a run -------------------------------------------------------------------------------------------


def file_of(run_dir: Path, rank: int) -> Path:
    """Where the figures of a machine are, one `Moment` a line."""
    return run_dir / FOLDER / f"{rank}.jsonl"


def append(file: Path, moment: Moment) -> None:
    """Add a line; of a file with two hours the older one goes.

    Raises:
        OSError: If it cannot be written.
    """
    file.parent.mkdir(exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(moment)) + "\n")
        size = stream.tell()
    if size > 2 * KEEP / EVERY * 100:  # a line has 100 bytes and more
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        if len(lines) > 2 * KEEP / EVERY:
            write_atomically(file, "".join(lines[-int(KEEP / EVERY) :]))


def record(run_dir: Path, rank: int, every: float = EVERY) -> None:
    """Write what this machine does to a run's folder from now on, in a thread that ends with the process.

    Args:
        run_dir: May appear later.
        rank: Of this machine among those of the run.
        every: Seconds between two looks.
    """

    def work() -> None:
        use = MachineUse(run_dir)
        use.look()  # from here on it measures the CPU
        while True:
            time.sleep(every)
            with suppress(OSError):  # a full disk, or no folder yet: the run continues without its figures
                append(file_of(run_dir, rank), use.look())

    threading.Thread(target=work, daemon=True, name="machine use").start()
