"""Commands that a server runs for its users: one at a time for a run, kept as long as the server lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid as ids
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.files import ROOT
from training_platform.api.errors import ApiError
from training_platform.api.views import View
from training_platform.queue.store import now

PYTHON = sys.executable
KEPT = 1_000  # operations
SAID = 16 << 10  # characters of what a command has printed


class OperationView(View):
    """An operation: running, finished or failed; what its command has printed, and where its result is."""

    id: str
    kind: str
    job: str
    state: str
    exit_status: int | None
    text: str
    result: str | None
    started_at: str
    ended_at: str | None


@dataclass
class Operation:
    """One command that runs, or has run."""

    id: str
    kind: str
    job: str
    run: str
    result: Path | None
    process: subprocess.Popen
    text: str = ""
    started_at: str = field(default_factory=now)
    ended_at: str | None = None

    def view(self) -> OperationView:
        """As the API shows it."""
        status = self.process.returncode if self.ended_at else None
        state = "running" if status is None else "failed" if status else "finished"
        result = str(self.result) if state == "finished" and self.result else None
        return OperationView(
            id=self.id,
            kind=self.kind,
            job=self.job,
            state=state,
            exit_status=status,
            text=self.text,
            result=result,
            started_at=self.started_at,
            ended_at=self.ended_at,
        )


class Processes:
    """Starts them, and knows them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Operation] = {}

    def start(
        self,
        about: tuple[str, str, str],
        result: Path | None,
        command: Sequence[str],
        environment: Mapping[str, str],
        at_end: Callable[[], None] = lambda: None,
    ) -> OperationView:
        """Starts a Python module.

        Args:
            about: What is done, to which job, and to which run; two on one run would write the same files.
            result: What it makes.
            command: Module and arguments.
            environment: Variables beside the server's own.
            at_end: Called when it has ended.

        Raises:
            ApiError: 409 while another one of that run is under way.
        """
        kind, job, run = about
        with self._lock:
            if any(one.run == run and one.ended_at is None for one in self._known.values()):
                raise ApiError(409, "busy", f"{job}: another operation of this run is under way")
            process = subprocess.Popen(
                [PYTHON, "-m", *command],
                cwd=ROOT,
                env={**_inherited(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            made = Operation(ids.uuid4().hex, kind, job, run, result, process)
            self._known[made.id] = made
            for old in [one.id for one in self._known.values() if one.ended_at][: max(0, len(self._known) - KEPT)]:
                del self._known[old]
        threading.Thread(target=_follow, args=(made, at_end), daemon=True).start()
        return made.view()

    def stop(self, name: str) -> OperationView:
        """Ends an operation; what it had begun to write is not left behind."""
        self.one(name)
        self._known[name].process.send_signal(signal.SIGINT)
        return self.one(name)

    def file(self, name: str) -> Path:
        """The file that an operation has made.

        Raises:
            ApiError: 404 when there is none, or not yet.
        """
        made = self.one(name)
        if made.result is None or not Path(made.result).is_file():
            raise ApiError(404, "no_file", f"{name}: it is {made.state} and has made no file")
        return Path(made.result)

    def one(self, name: str) -> OperationView:
        """An operation by its id.

        Raises:
            ApiError: 404 when this server has not started one of that id.
        """
        if name not in self._known:
            raise ApiError(404, "no_operation", f"{name[:100]!r}: this server has started no such operation")
        return self._known[name].view()

    def all(self) -> list[OperationView]:
        """The newest first."""
        return [one.view() for one in reversed(list(self._known.values()))]


def _inherited() -> dict[str, str]:
    """The server's environment without its own token and address."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PLATFORM_")}


def _follow(made: Operation, at_end: Callable[[], None]) -> None:
    """Keeps the end of what a command prints."""
    for line in made.process.stdout:
        made.text = (made.text + line.decode("utf-8", "replace"))[-SAID:]
    made.process.wait()
    at_end()
    made.ended_at = now()
