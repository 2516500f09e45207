"""The machine: GPUs through NVML, CPU, memory and disk through psutil, now and over the last hour."""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from monitor.plain import plain

EVERY = 2.0  # seconds between two looks
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


class Sampler:
    """Looks at the machine every two seconds in a separate thread, and keeps an hour.

    Args:
        folder: The disk that it is on is watched.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.moments: deque[Moment] = deque(maxlen=int(KEEP / EVERY))
        self.gpu_problem = ""  # why there are no GPUs, "" when there are
        self._handles: list = []
        self._started = False

    def start(self) -> None:
        """Begins; a second call does nothing."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, daemon=True, name="system sampler").start()

    def _run(self) -> None:
        self._open_nvml()
        psutil.cpu_percent()  # the first call only starts its clock
        while True:
            time.sleep(EVERY if self.moments else 0.2)
            self.moments.append(self.look())

    def _open_nvml(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        except Exception as error:  # no library, no driver, no right: pynvml has a class for each
            self.gpu_problem = str(error) or type(error).__name__

    def look(self) -> Moment:
        """The machine now."""
        memory, disk = psutil.virtual_memory(), _disk(self.folder)
        gpus = tuple(_gpu(index, handle) for index, handle in enumerate(self._handles))
        used = memory.total - memory.available
        return Moment(time.time(), psutil.cpu_percent(), used, memory.total, disk.used, disk.total, gpus)


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
        return plain(psutil.Process(pid).name())
    except psutil.Error:
        return "?"
