"""Holds the processes of a run together: ``python -m common.runner.supervisor RUN_DIR -- COMMAND``.

The launcher starts this process, and this process starts the trainer. It ends everything below it when the trainer
ends, when the launcher says so on its standard input, and when that input just ends, because then the
launcher was killed. It exits with the trainer's status.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from common.notify.notifier import Notifier
from common.run_dir import update_run
from common.runner import processes

STOP = b"stop\n"
NO_RUN = "-"  # in place of a run directory: another process keeps the run's state
POLL_SECONDS = 0.1


def main() -> int:
    """Run the command; returns its exit status, 128 plus the signal's number when it was killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    run_dir, command = Path(sys.argv[1]), sys.argv[sys.argv.index("--") + 1 :]
    processes.become_subreaper()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFY_")}
    trainer = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, preexec_fn=_prepare_trainer, start_new_session=True
    )
    asked = threading.Event()
    heard: list[bytes] = []
    threading.Thread(target=_listen, args=(asked, heard), daemon=True).start()
    while trainer.poll() is None and not asked.wait(POLL_SECONDS):
        pass
    processes.end_descendants(keep_status_of=trainer.pid)
    status = trainer.wait()
    if asked.is_set() and heard != [STOP] and str(run_dir) != NO_RUN:
        run = update_run(run_dir, state="failed", reason="the launcher was killed", exit_status=137)
        notifier = Notifier(run_dir, os.environ, run.get("algorithm", ""))
        notifier.tell(f"died:{run.get('attempt', 1)}", "died", f"the launcher on {run.get('host')} was killed", "error")
        notifier.close()
    return status if status >= 0 else 128 - status


def _prepare_trainer() -> None:
    """In the trainer, before it starts: signals as usual, and not to outlive this process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    processes.die_with_parent()


def _listen(asked: threading.Event, heard: list[bytes]) -> None:
    heard.append(sys.stdin.buffer.read())
    asked.set()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the thread above may still wait for input
