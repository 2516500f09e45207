"""A file of a run that is touched while its launcher lives, for launchers and pages on other hosts."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from common.run_dir import BEAT_FILE, BEAT_SECONDS


class Heartbeat:
    """Touches the file of a run until `stop`.

    Args:
        run_dir: Exists.
    """

    def __init__(self, run_dir: Path):
        self._file = run_dir / BEAT_FILE
        self._stopped = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # a full disk must not end the run; a page may take it for dead
                self._file.touch()
            if self._stopped.wait(BEAT_SECONDS):
                return

    def stop(self) -> None:
        """Remove the file."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
