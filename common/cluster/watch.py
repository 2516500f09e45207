"""The launchers of a run watch each other until its end: a heartbeat, a report, an end that all see.

The first machine's launcher holds a new board on the port of the meeting. A machine counts as gone when its heartbeat
stays away, whatever the reason: its processes were killed, its power failed, its cable was pulled.

===========================  ==========  ===========================================================
key                          written by  holds
===========================  ==========  ===========================================================
``run``                      first       the launch, so that a launcher that comes late sees it
``<launch>/beat/<rank>``     each        a number that grows
``<launch>/report/<rank>``   others      how its part ended, when it did not end well
``<launch>/over``            first       the run ends: stop your part
``<launch>/end``             first       exit status and reason of the run
``<launch>/stage/<n>``       first       the train.sh of a stage of self-play (gspo/follower.py)
``<launch>/left/<rank>``     others      it has read the end
===========================  ==========  ===========================================================
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from common.cluster.board import Board, host_board, join_board
from common.cluster.names import Cluster, ClusterError

BEAT_SECONDS = 2.0
GONE_SECONDS = 60.0  # without a heartbeat
FIRST_SECONDS = 180.0  # until the first one: a busy machine takes its time to import torch
ANSWER_SECONDS = 12.0  # to see who is left when something has failed
FAREWELL_SECONDS = 12.0


@dataclass(frozen=True)
class Problem:
    """Why a run cannot continue.

    Args:
        text: In words, with the machine's name.
        gone: The machine does not answer any more.
        stop_signal: A person has stopped it there, with this signal.
        echo: The trainer of the first machine has failed by itself too, and may say more.
    """

    text: str
    gone: bool = False
    stop_signal: int | None = None
    echo: bool = False


@dataclass(frozen=True)
class End:
    """How a run ended: the exit status of all launchers, and why in a few words."""

    status: int
    reason: str


class Watch:
    """One machine's part; a thread beats and looks until `close`.

    Args:
        cluster: The place of this machine.
        board: Of the run.
        launch: ``CLUSTER_LAUNCH``, the same on all machines.
        names: Rank -> how messages name a machine.
    """

    def __init__(self, cluster: Cluster, board: Board, launch: str, names: Mapping[int, str]):
        self.cluster, self.board, self.launch, self.names = cluster, board, launch, names
        self.others = [0] if cluster.rank else list(range(1, cluster.nnodes))
        now = time.monotonic()
        self._seen: dict[int, int] = {}
        self._changed = {rank: now + FIRST_SECONDS - GONE_SECONDS for rank in self.others}
        self._round = now
        self._reports: dict[int, dict] = {}
        self._left: set[int] = set()
        self._end: End | None = None
        self._over = False
        self._lost = ""
        self._closed = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    # ---- what others say -------------------------------------------------------------------------------------

    def end(self) -> End | None:
        """The end that the first machine has told, None before."""
        return self._end

    def is_over(self) -> bool:
        """Whether the first machine ends the run."""
        return self._over or self._end is not None

    def problem(self) -> Problem | None:
        """Why the run cannot continue, as far as this machine knows; None while all is well."""
        for rank, report in self._reports.items():
            where = self.names[rank]
            if report.get("signal"):
                return Problem(f"stopped on {where}", stop_signal=report["signal"])
            return Problem(f"on {where}: {report['text']}")
        if self._lost and not self._end:
            return self._gone([0], self._lost)
        late = [rank for rank in self.others if rank not in self._left and self._age(rank) > GONE_SECONDS]
        return self._gone(late, f"no heartbeat for {GONE_SECONDS:.0f} s") if late else None

    def who_is_gone(self, seconds: float = ANSWER_SECONDS) -> Problem | None:
        """Wait for a sign of each other machine; returns which gave none. For the moment after a failure."""
        asked = time.monotonic()
        waiting = set(self.others)
        while waiting and time.monotonic() < asked + seconds and not self._lost:
            waiting -= {rank for rank in waiting if rank in self._reports or self._changed[rank] > asked}
            time.sleep(0.1)
        return self._gone(sorted(waiting), "it was killed, or cannot be reached") if waiting else None

    def _age(self, rank: int) -> float:
        now = time.monotonic()
        return max(now - self._changed[rank], now - self._round if self.cluster.rank else 0.0)

    def _gone(self, ranks: list[int], why: str) -> Problem:
        are = "are" if len(ranks) > 1 else "is"
        return Problem(f"{', '.join(self.names[rank] for rank in ranks)} {are} gone: {why}", gone=True)

    def hear(self, key: str) -> object:
        """What the first machine has announced under a key, None before."""
        with suppress(ClusterError):
            return self._read(key)
        return None

    # ---- what this machine says ------------------------------------------------------------------------------

    def report(self, text: str, stop_signal: int | None = None) -> None:
        """Tell the first machine that this one's part has ended badly, or that a person stops the run here."""
        with suppress(ClusterError):
            self._post(f"report/{self.cluster.rank}", {"text": text, "signal": stop_signal})

    def announce(self, key: str, value: object) -> None:
        """On the first machine: tell the others something; that it is gone is seen by `problem`."""
        with suppress(ClusterError):
            self._post(key, value)

    def tell_over(self) -> None:
        """On the first machine: have the others stop their part; the end follows."""
        with suppress(ClusterError):
            self._post("over", True)

    def tell_end(self, status: int, reason: str) -> None:
        """On the first machine: tell the others how the run has ended, and wait until they have read it."""
        with suppress(ClusterError):
            self._post("end", [status, reason])
        until = time.monotonic() + FAREWELL_SECONDS
        while time.monotonic() < until and set(self.others) - self._left - self._gone_now():
            time.sleep(0.1)

    def _gone_now(self) -> set[int]:
        return {rank for rank in self.others if self._age(rank) > 4 * BEAT_SECONDS}

    def close(self) -> None:
        """Beat no more; on others than the first: the end has been read."""
        self._closed.set()
        if self.cluster.rank and not self._lost:
            with suppress(ClusterError):
                self._post(f"left/{self.cluster.rank}", True)

    # ---- the thread ------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        count = 0
        while not self._closed.is_set():
            count += 1
            try:
                self._post(f"beat/{self.cluster.rank}", count)
                for rank in self.others:
                    self._look_at(rank)
                if self.cluster.rank:
                    end = self._read("end")
                    self._end, self._over = End(*end) if end else None, bool(self._read("over"))
                self._round = time.monotonic()
            except ClusterError as error:
                self._lost = str(error)
                return
            self._closed.wait(BEAT_SECONDS)

    def _look_at(self, rank: int) -> None:
        beat = self._read(f"beat/{rank}")
        if beat is not None and beat != self._seen.get(rank):
            self._seen[rank], self._changed[rank] = beat, time.monotonic()
        if rank and (report := self._read(f"report/{rank}")):
            self._reports[rank] = report
        if rank and self._read(f"left/{rank}"):
            self._left.add(rank)

    def _post(self, key: str, value: object) -> None:
        self.board.post(f"{self.launch}/{key}", value)

    def _read(self, key: str) -> object:
        return self.board.read(f"{self.launch}/{key}")


def open_watch(cluster: Cluster, environment: Mapping[str, str]) -> Watch:
    """Begin to watch, on any machine of a run whose launchers have met.

    Args:
        cluster: The place of this machine.
        environment: Holds ``CLUSTER_LAUNCH``, ``CLUSTER_MACHINES`` and ``MACHINE_ADDR``.

    Raises:
        ClusterError: If the first machine's launcher is not found.
    """
    machines = json.loads(environment["CLUSTER_MACHINES"])
    names = {
        one["rank"]: f"machine {one['rank'] + 1} of {len(machines)}, {one['host']} ({one['address']})"
        for one in machines
    }
    if cluster.rank == 0:
        board = host_board(environment["MACHINE_ADDR"], cluster.port)
        board.post("run", environment["CLUSTER_LAUNCH"])
    else:
        board = join_board(cluster.master, cluster.port, FIRST_SECONDS, lambda _: None)
    return Watch(cluster, board, environment["CLUSTER_LAUNCH"], names)
