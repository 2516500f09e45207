"""Episodes of the environment of ``ENV_PATH``, each in a process of its own, with a time limit on each call."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any

from common.verl_ext.environment_process import seed_of
from common.worker import Worker, WorkerDied

CALLS = 256  # under way at once in each agent worker; more wait for their turn


class EpisodeFailed(RuntimeError):
    """The environment raised, took too long or took its process down."""


class Episode:
    """The agent loop's end of one episode; closing it ends the process.

    Args:
        pipe: To the process.
        limit_s: Seconds for one call.
    """

    def __init__(self, pipe: Connection, limit_s: float):
        self.pipe, self.limit_s = pipe, limit_s

    def ask(self, name: str, value: Any) -> Any:
        """Call ``reset`` with a row, or ``step`` with the model's answer.

        Returns:
            The first observation; or observation, reward, whether the episode is over, whether it succeeded.

        Raises:
            EpisodeFailed: If it raised, took longer than the limit, or its process ended.
        """
        try:
            self.pipe.send((self.limit_s, (name, value)))
            if not self.pipe.poll(self.limit_s):
                raise EpisodeFailed(f"{name} took longer than {self.limit_s:g} s")
            kind, result = self.pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise EpisodeFailed(f"its process ended in {name}: a crash, or too much memory") from error
        if kind == "error":
            raise EpisodeFailed(result)
        return result

    def close(self) -> None:
        """End the episode."""
        self.pipe.close()


class Environments(Worker):
    """Opens episodes of one file; the process that forks them starts with the first.

    Args:
        path: File of ``ENV_PATH``.
        limit_s: Seconds for one call.
        seed: Of the run.
        calls: How many may be under way at once.
    """

    def __init__(self, path: str, limit_s: float, seed: int = 1, calls: int = CALLS):
        super().__init__("common.verl_ext.environment_process", (path,))
        self.limit_s, self.seed = limit_s, seed
        self.threads = ThreadPoolExecutor(calls, thread_name_prefix="episode")

    def open(self, row: dict[str, Any]) -> Episode:
        """Start an episode of a row.

        Raises:
            WorkerNotStarted: If the file cannot be loaded, with the reason.
            WorkerDied: If the process that forks has ended; the next call starts a new one.
        """
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            try:
                if self._process is None:
                    self._start()
                if not self._ready:
                    self._wait_until_ready()
                send_handle(self._pipe, theirs.fileno(), self._process.pid)
            except ConnectionError as error:
                ours.close()
                raise WorkerDied(self._end()) from error
            except BaseException:
                ours.close()
                raise
        episode = Episode(Connection(ours.detach()), self.limit_s)
        episode.pipe.send(seed_of(self.seed, row))
        return episode

    async def run(self, function: Any, *arguments: Any) -> Any:
        """Call a function that waits for a process, in a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)
