"""A Python process that answers one question at a time and is killed when it takes too long.

verl calls a reward function in a thread. A thread cannot be stopped, a signal reaches the main thread only, and a
regular expression or a power tower holds the interpreter's lock while it runs. A process can be killed.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from common.files import ROOT

LAST_WORDS = 2000  # characters of a dead process's error output that are shown
_all: weakref.WeakSet[Worker] = weakref.WeakSet()


class WorkerDied(RuntimeError):
    """The process ended in the middle of an answer: a crash, or too much memory."""


class WorkerNotStarted(RuntimeError):
    """The process did not become ready: something is not installed or cannot be imported."""


class Worker:
    """The parent's end. It starts with the first question, is safe with several threads, and ends with the parent.

    Args:
        module: Module that the process runs; it calls ``serve``.
        arguments: Further command line arguments.
        start_limit_s: Seconds until it must be ready, its imports included.
    """

    def __init__(self, module: str, arguments: tuple[str, ...] = (), start_limit_s: float = 60.0):
        self.module, self.arguments, self.start_limit_s = module, arguments, start_limit_s
        self._process: subprocess.Popen | None = None
        self._ready = False
        self._lock = threading.Lock()
        _all.add(self)

    def ask(self, question: Any, limit_s: float) -> Any:
        """Returns the answer to a question.

        Args:
            question: Anything that can be pickled.
            limit_s: Seconds until the process is killed; waiting for another thread's question does not count.

        Raises:
            TimeoutError: If it took longer. The next question finds a new process.
            WorkerDied: If the process ended; the message holds the end of its error output.
            WorkerNotStarted: If it did not get ready, with the reason.
        """
        with self._lock:
            if self._process is None:
                self._start()
            if not self._ready:
                self._wait_until_ready()
            try:
                self._pipe.send((limit_s, question))
                if not self._pipe.poll(limit_s):
                    raise TimeoutError(f"no answer in {limit_s:g} s")
                return self._pipe.recv()
            except TimeoutError:
                self._end()
                self._start()  # it imports while the caller continues
                raise
            except (EOFError, ConnectionError) as error:
                raise WorkerDied(self._end()) from error
            except BaseException:  # Ctrl-C: the reply would be taken for that of the next question
                self._end()
                raise

    def stop(self) -> None:
        """Ends the process; the next question starts a new one."""
        with self._lock:
            if self._process is not None:
                self._end()

    def forget(self) -> None:
        """Drops a process that belongs to the parent of a fork, without ending it."""
        self._lock = threading.Lock()
        if self._process is not None:
            self._pipe.close()
            self._process.returncode = 0  # so that nobody waits for it here
            self._process = None

    def _start(self) -> None:
        self._pipe, other = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, str(other.fileno()), *self.arguments],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env={**os.environ, "PYTHONPATH": path},
            )
        self._ready = False

    def _wait_until_ready(self) -> None:
        if not self._pipe.poll(self.start_limit_s):
            self._end()
            raise WorkerNotStarted(f"{self.module}: not ready after {self.start_limit_s:g} s, its imports take longer")
        try:
            failure = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise WorkerNotStarted(self._end()) from error
        if failure is not None:
            self._end()
            raise WorkerNotStarted(failure)
        self._ready = True

    def _end(self) -> str:
        """Ends the process and returns its last words."""
        process, self._process = self._process, None
        self._pipe.close()
        process.kill()
        status = process.wait()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - LAST_WORDS))
        words = self._errors.read().decode(errors="replace").strip()
        self._errors.close()
        return f"its process ended with status {status}" + (f": {words}" if words else "")


def serve(prepare: Callable[[], Callable[[Any], Any]]) -> None:
    """The child's end: answers questions until the parent is gone.

    Args:
        prepare: Does the imports and returns the function that answers; what it raises reaches the parent as
            ``WorkerNotStarted``.
    """
    pipe = Connection(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        answer = prepare()
    except WorkerNotStarted as error:  # has said it in words
        pipe.send(str(error))
        return
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send(None)
    while True:
        try:
            limit_s, question = pipe.recv()
        except EOFError:
            return
        # The parent kills at the limit. If it is gone, the alarm does, even in the middle of a C function.
        signal.setitimer(signal.ITIMER_REAL, limit_s + 1)
        reply = answer(question)
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            pipe.send(reply)
        except ConnectionError:
            return


def address_space() -> int:
    """Bytes of address space that this process has, to set a limit above; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _stop_all() -> None:
    for worker in list(_all):
        worker.stop()


def _forget_all() -> None:
    for worker in list(_all):
        worker.forget()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_forget_all)
