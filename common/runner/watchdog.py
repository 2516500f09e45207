"""Ends a run whose launcher was killed: ``python -m common.runner.watchdog RUN_DIR MARK``.

The launcher holds the other end of this process's standard input. When it dies, whatever the way, the input ends
without a goodbye, and every process of the run is ended within seconds.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from common.run_dir import update_run
from common.runner import processes

GOODBYE = b"finished\n"


def main() -> None:
    """Wait for the goodbye; without it, end the run and note that in run.json."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    run_dir, mark = Path(sys.argv[1]), sys.argv[2]
    if sys.stdin.buffer.read() == GOODBYE:
        return
    processes.end(mark)
    update_run(run_dir, state="failed", reason="the launcher was killed", exit_status=-9)


if __name__ == "__main__":
    main()
