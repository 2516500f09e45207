"""The launchers of all machines meet, compare, and start together or not at all.

The first machine holds a board. Each machine posts what it has; the first compares, checks the knobs, posts what it
resolved; each looks for the files and for a file that the first has put into OUTPUTS_DIR; the first answers with go,
or with all that is wrong, which then every machine prints.

Whoever can open a connection can write on the board, and what the first machine resolves ends in the environment of
all. So ``plan`` and ``found`` are sealed with the content of that file, which only those who can read it know, and it
must be in the machine's own OUTPUTS_DIR.

=================  ==========  ===============================================
key                written by  holds
=================  ==========  ===============================================
``facts/<rank>``   each        `facts.facts`, and the port of its `Door`
``plan``           first       sealed: variables, paths with sizes, canary, doors
``found/<rank>``   each        sealed: what it found of the plan
``left/<rank>``    each        why it gave up, before the answer
``answer``         first       go or not, the text, remarks
``done/<rank>``    each        it has read the answer
=================  ==========  ===============================================
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cluster import compare, facts, network
from common.cluster.board import POLL_SECONDS, Board
from common.cluster.names import Cluster, ClusterError

FOUND_SECONDS = 120.0  # that machines get to look at the files
FAREWELL_SECONDS = 10.0
NOTHING = "nothing was started, nothing was written."

Say = Callable[[str], None]


class Refused(ClusterError):
    """The machines do not start; the text is the same on all of them."""


@dataclass(frozen=True)
class Plan:
    """What the first machine has resolved.

    Args:
        values: NAME -> value of all that a train.sh exports.
        paths: Files and folders that every machine needs.
        outputs: Folder of runs.
    """

    values: dict[str, str]
    paths: tuple[str, ...]
    outputs: Path


@dataclass(frozen=True)
class Wanted:
    """What the first machine asks of each.

    Args:
        gpus: ``N_GPUS``, None for auto.
        on_cpu: No GPU is used.
    """

    gpus: int | None = None
    on_cpu: bool = False


class Door:
    """A port of this machine that the others try to reach; nothing is read from it."""

    def __init__(self, address: str):
        self._listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self._listener.bind((address, 0))
        self._listener.listen(1024)  # the kernel opens the connections
        self.port = self._listener.getsockname()[1]

    def close(self) -> None:
        """Close it."""
        self._listener.close()


def lead(
    cluster: Cluster, board: Board, mine: dict[str, Any], wanted: Wanted, resolve: Callable[[], Plan], say: Say
) -> dict[str, str]:
    """Hold the meeting, on the first machine.

    Args:
        cluster: The place of this machine.
        board: Held by this process, and new.
        mine: Its facts.
        wanted: Of each machine.
        resolve: The preflight; raises `Refused`.
        say: Shows a line.

    Returns:
        The variables to export, those about the machines among them.

    Raises:
        ClusterError: If the machines do not start.
    """
    door = Door(mine["address"])
    board.post("facts/0", {**mine, "door": door.port})
    came = {0}
    try:
        machines = _gather(board, cluster, "facts", cluster.timeout, came, say)
        refuse(compare.differences(machines, wanted.gpus, wanted.on_cpu))
        say(f"{len(machines)} machines: " + ", ".join(map(compare.name_of, machines)))
        plan = resolve()
        values = {**plan.values, "CLUSTER_LAUNCH": secrets.token_hex(8), "CLUSTER_MACHINES": summary(machines)}
        with canary(plan.outputs) as (path, content):
            offer = {"values": values, "sizes": facts.sizes(plan.paths), "canary": path, "time": time.time()}
            offer["doors"] = {compare.name_of(one): [one["address"], one["door"]] for one in machines}
            sealed = seal(offer, "plan", content)
            board.post("plan", sealed)
            board.post("found/0", look(sealed, mine, plan.outputs))
            posted = _gather(board, cluster, "found", FOUND_SECONDS, {0}, lambda _: None)
            answers = [heard(one, rank, content) for rank, one in enumerate(posted)]
        refuse(compare.file_differences(machines, answers, str(plan.outputs)))
        remarks = compare.remarks(machines, answers)
        board.post("answer", {"go": True, "text": "", "remarks": remarks})
    except BaseException as error:
        text = (
            str(error) if isinstance(error, ClusterError) else f"the first machine was stopped ({type(error).__name__})"
        )
        with suppress(ClusterError):
            board.post("answer", {"go": False, "text": text, "remarks": []})
            _see_off(board, came - {0})
        raise
    finally:
        door.close()
    _see_off(board, came - {0})
    for line in remarks:
        say(f"note: {line}")
    return values


def attend(cluster: Cluster, board: Board, mine: dict[str, Any], outputs: Path, say: Say) -> dict[str, str]:
    """Come to the meeting, on any other machine; arguments and errors as of `lead`, and this machine's OUTPUTS_DIR."""
    door = Door(mine["address"])
    posted = {**mine, "door": door.port, "launcher": secrets.token_hex(8)}
    try:
        if board.read("run") is not None:
            raise ClusterError(
                f"a run is under way at {cluster.master}:{cluster.port}; stop it, or set another MASTER_PORT"
            )
        there = board.claim(f"facts/{cluster.rank}", posted)
        if there["launcher"] != posted["launcher"]:
            raise ClusterError(
                f"NODE_RANK={cluster.rank} is taken by {compare.name_of(there)}; give each machine its own"
            )
        sealed = _wait(board, "plan")
        found = look(sealed, mine, outputs) if sealed is not None else {}
        if found:
            board.post(f"found/{cluster.rank}", found)
        answer = _wait(board, "answer")
        board.post(f"done/{cluster.rank}", True)
    except BaseException as error:
        with suppress(ClusterError):
            board.post(f"left/{cluster.rank}", f"{type(error).__name__} {error}".strip())
        raise
    finally:
        door.close()
    if not answer["go"]:
        raise Refused(answer["text"])
    if not found.get("proof"):
        raise Refused(f"what came from {cluster.master}:{cluster.port} is not from a launcher that writes to {outputs}")
    for line in answer["remarks"]:
        say(f"note: {line}")
    return json.loads(sealed["text"])["values"]


def _gather(board: Board, cluster: Cluster, kind: str, seconds: float, came: set[int], say: Say) -> list[dict]:
    """What each machine has posted under a kind of key.

    Raises:
        Refused: If one is not there in time, or has left.
    """
    until, found, said = time.monotonic() + seconds, {}, 0
    while True:
        for rank in set(range(cluster.nnodes)) - set(found):
            posted = board.read(f"{kind}/{rank}")
            if posted is not None:
                found[rank] = posted
                came.add(rank)
            elif (reason := board.read(f"left/{rank}")) is not None:
                raise Refused(f"the machine with NODE_RANK={rank} has left: {reason}")
        if len(found) == cluster.nnodes:
            return [found[rank] for rank in range(cluster.nnodes)]
        if len(found) != said:
            said = len(found)
            say(f"{said} of {cluster.nnodes} machines are there, waiting for {_ranks(cluster, found)}")
        if time.monotonic() > until:
            what = "has not come" if kind == "facts" else "does not answer any more"
            raise Refused(
                f"{said} of NNODES={cluster.nnodes} machines after {seconds:.0f} s: {_ranks(cluster, found)} {what}; "
                "is train.sh started there, with the same MASTER_ADDR and MASTER_PORT? CLUSTER_TIMEOUT is the limit"
            )
        time.sleep(POLL_SECONDS)


def _ranks(cluster: Cluster, found: Iterable[int]) -> str:
    return "NODE_RANK=" + ",".join(str(rank) for rank in sorted(set(range(cluster.nnodes)) - set(found)))


def _wait(board: Board, key: str) -> Any:
    """What the first machine posts under a key; None where its answer comes first. It has a separate time limit."""
    while True:
        for name in (key, "answer"):
            value = board.read(name)
            if value is not None:
                return value if name == key else None
        time.sleep(POLL_SECONDS)


def look(sealed: dict[str, str], mine: dict[str, Any], outputs: Path | None) -> dict[str, str]:
    """What this machine finds of the plan, sealed; without a proof where it does not see the first machine's file.

    Args:
        sealed: The plan.
        mine: Facts of this machine.
        outputs: Its OUTPUTS_DIR; None where Ray has let it in already.
    """
    offer = json.loads(sealed["text"])
    drift = time.time() - offer["time"]  # and the moment that it took to read it
    doors = {name: where for name, where in offer["doors"].items() if name != compare.name_of(mine)}
    shut = {name: problem for name, (address, port) in doors.items() if (problem := network.reachable(address, port))}
    secret = facts.read_shared(offer["canary"], outputs)
    found = {"sizes": facts.sizes(offer["sizes"]), "shut": shut, "drift": drift}
    if not is_sealed(sealed, "plan", secret):
        secret = ""
    return seal(found, f"found/{mine['rank']}", secret)


def heard(sealed: dict[str, str], rank: int, secret: str) -> dict[str, Any]:
    """What a machine has found, and in ``sees`` whether it knows the secret."""
    return {**json.loads(sealed["text"]), "sees": is_sealed(sealed, f"found/{rank}", secret)}


def seal(value: Any, kind: str, secret: str) -> dict[str, str]:
    """A value with a proof that it comes from somebody who knows a secret; with none where the secret is ""."""
    text = json.dumps(value)
    return {"text": text, "proof": _proof(text, kind, secret) if secret else ""}


def is_sealed(sealed: dict[str, str], kind: str, secret: str) -> bool:
    """Whether the proof is right for what it is taken for."""
    return bool(secret) and hmac.compare_digest(sealed["proof"], _proof(sealed["text"], kind, secret))


def _proof(text: str, kind: str, secret: str) -> str:
    return hmac.new(secret.encode(), f"{kind}\0{text}".encode(), "sha256").hexdigest()


@contextmanager
def canary(folder: Path):
    """A file in a folder, with a content that its owner alone can read, for as long as others look for it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path, content = folder / f".canary-{secrets.token_hex(8)}", secrets.token_hex(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(content)
    try:
        yield str(path), content
    finally:
        path.unlink(missing_ok=True)
        for parent in made:  # nothing stays of a launch that was refused
            with suppress(OSError):
                parent.rmdir()


def refuse(problems: list[str]) -> None:
    """Stop where machines differ, with all that does."""
    if problems:
        count = f"{len(problems)} difference{'s' if len(problems) > 1 else ''} between the machines; {NOTHING}"
        raise Refused("\n".join([f"the machines cannot start together: {problems[0]}", *problems[1:], count]))


def _see_off(board: Board, ranks: Iterable[int]) -> None:
    """Wait until the others have read the answer: the board goes with this process."""
    until, left = time.monotonic() + FAREWELL_SECONDS, set(ranks)
    while left and time.monotonic() < until:
        left = {rank for rank in left if board.read(f"done/{rank}") is None and board.read(f"left/{rank}") is None}
        time.sleep(POLL_SECONDS / 2)


def summary(machines: list[dict[str, Any]]) -> str:
    """What run.json says of the machines."""
    names = ("rank", "host", "address", "interface", "gpus")
    return json.dumps([{name: machine[name] for name in names} for machine in machines])
