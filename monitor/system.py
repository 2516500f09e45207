"""The machine that the page runs on: now and over the last hour."""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path

from common.machine_use import KEEP, MachineUse, Moment

EVERY = 2.0  # seconds between two looks


class Sampler(MachineUse):
    """Looks at the machine every two seconds in a separate thread, and keeps an hour.

    Args:
        folder: The disk that it is on is watched.
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.moments: deque[Moment] = deque(maxlen=int(KEEP / EVERY))
        self._started = False

    def start(self) -> None:
        """Begins; a second call does nothing."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, daemon=True, name="system sampler").start()

    def _run(self) -> None:
        self.look()  # from here on it measures the CPU
        while True:
            time.sleep(EVERY if self.moments else 0.2)
            self.moments.append(self.look())
