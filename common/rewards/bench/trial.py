"""The bench: runs a reward function on real rows before a run does, in a process that can be killed.

``python -m common.reward_functions bench --reward FILE[:NAME] --data FILE``
"""

from __future__ import annotations

import json
import reprlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.rewards.bench.data import Case
from common.worker import ROOT, Worker, WorkerDied

LIMIT_S = 10.0  # seconds that one call may take
START_LIMIT_S = 120.0  # seconds for the import of the user's file
TRUTHS_S = 20.0  # seconds for the truths of further rows; those not reached are counted
HANGS = 3  # calls over the limit after which the bench stops
AT_ONCE = 8  # calls at the same time, to see whether the function bears it
FACE = ROOT / "common" / "reward_functions.py"


@dataclass(frozen=True)
class Target:
    """The function on trial.

    Args:
        path: Python file.
        name: Function in it.
        parameters: What `reward_kwargs` will hold.
    """

    path: Path
    name: str = "compute_score"
    parameters: dict[str, Any] = field(default_factory=dict)

    def worker(self) -> Worker:
        """Returns the process that will load it."""
        arguments = (str(self.path), self.name, json.dumps(self.parameters))
        return Worker("common.rewards.bench.child", arguments, START_LIMIT_S)


@dataclass
class Outcome:
    """What one call gave.

    Args:
        case: The call.
        seconds: How long it took.
        score: The score, or None when there is none that verl can use.
        keys: Keys of the dictionary, sorted; None when it returned a number.
        problem: What verl cannot use in the result.
        error: The exception, with the line in the user's file.
        late: It did not come back within the limit, or took the process down; says which.
        blocked_s: How long an async function kept the event loop from anything else.
    """

    case: Case
    seconds: float = 0.0
    score: float | None = None
    keys: list[str] | None = None
    problem: str | None = None
    error: str | None = None
    late: str | None = None
    blocked_s: float = 0.0


@dataclass
class Trial:
    """All that the bench saw.

    Args:
        target: The function.
        outcomes: One a call, in order.
        is_async: It is an `async def`.
        pickle_problem: Why it cannot be pickled, or None.
        differing: Cases whose score was another one when several ran at once, as (case, alone, together).
        together_failed: Why the calls at once did not come back, or None.
        load_s: Seconds from start to ready, imports included.
        stopped: Calls that were left out after too many over the limit.
        untried: Truths of further rows that were not reached in time.
        limit_s: Seconds that one call may take.
    """

    target: Target
    outcomes: list[Outcome] = field(default_factory=list)
    is_async: bool = False
    pickle_problem: str | None = None
    differing: list[tuple[Case, float, float | None]] = field(default_factory=list)
    together_failed: str | None = None
    load_s: float = 0.0
    stopped: int = 0
    untried: int = 0
    limit_s: float = LIMIT_S

    def scored(self) -> list[Outcome]:
        """Returns the calls that gave a score."""
        return [outcome for outcome in self.outcomes if outcome.score is not None]


@dataclass(frozen=True)
class Finding:
    """One verdict.

    Args:
        status: `ok`, `note`, `warn`, or `fail`; a `fail` gives exit status 1.
        check: What was looked at.
        found: What was seen, with row and answer.
        todo: What to do about it; "" when nothing.
    """

    status: str
    check: str
    found: str
    todo: str = ""


def where(outcome: Outcome) -> str:
    """Names a call: row, kind and answer."""
    case = outcome.case
    return f"row {case.row}, {case.kind} answer ({case.form}) {short(case.answer)}"


def short(text: str, longest: int = 50) -> str:
    """Writes an answer on one line."""
    shortened = reprlib.Repr()
    shortened.maxstring = longest
    return shortened.repr(text)


def find_target(reward: str, parameters: dict[str, Any] | None = None) -> Target:
    """Reads `--reward`: FILE, FILE:NAME, or a name of common.reward_functions.

    Raises:
        ValueError: If the file or the reward does not exist.
    """
    file, _, name = reward.rpartition(":") if ".py:" in reward else (reward, "", "compute_score")
    if file.endswith(".py"):
        path = Path(file)
        if not path.is_file():
            raise ValueError(f"--reward {reward}: no such file: {path.absolute()}")
        return Target(path.resolve(), name, parameters or {})
    from common.rewards.compose import FUNCTIONS

    if reward not in FUNCTIONS:
        raise ValueError(f"--reward {reward}: give a .py file, FILE.py:NAME, or one of {', '.join(FUNCTIONS)}")
    return Target(FACE, reward, parameters or {})


def try_reward(target: Target, cases: list[Case], limit_s: float = LIMIT_S) -> Trial:
    """Calls a reward function once per case, as verl does, then several times at once.

    Args:
        target: The function.
        cases: The calls.
        limit_s: Seconds until a call is reported and its process killed.

    Raises:
        WorkerNotStarted: If the file cannot be imported, or does not define the function.
        ValueError: If its own parameters cannot be written as JSON.
    """
    trial = Trial(target, limit_s=limit_s)
    worker = target.worker()
    try:
        started = time.perf_counter()
        facts = worker.ask(("facts", None), START_LIMIT_S)
        trial.load_s = time.perf_counter() - started
        trial.is_async, trial.pickle_problem = facts["is_async"], facts["pickle_problem"]
        call_each(worker, [case for case in cases if case.kind != "truth"], trial)
        if not trial.stopped:
            _call_together(worker, trial)
            _call_truths(worker, [case for case in cases if case.kind == "truth"], trial)
    finally:
        worker.stop()
    return trial


def call_each(worker: Worker, cases: list[Case], trial: Trial) -> None:
    """Calls one case after the other; gives up after some that hang."""
    hangs = 0
    for number, case in enumerate(cases):
        try:
            reply = worker.ask(("call", [case.arguments()]), trial.limit_s)[0]
            trial.outcomes.append(Outcome(case, **reply))
            continue
        except TimeoutError:
            late = f"did not come back within {trial.limit_s:g} s"
        except WorkerDied as error:
            late = f"took its process down: {error}"
        trial.outcomes.append(Outcome(case, trial.limit_s, late=late))
        hangs += 1
        if hangs == HANGS:
            trial.stopped = len(cases) - number - 1
            return


def _call_truths(worker: Worker, cases: list[Case], trial: Trial) -> None:
    """Tries the truths of further rows, as many as there is time for."""
    ends = time.perf_counter() + TRUTHS_S
    for at in range(0, len(cases), AT_ONCE):
        if trial.stopped or time.perf_counter() > ends:
            trial.untried = len({case.row for case in cases[at:]})
            return
        call_each(worker, cases[at : at + AT_ONCE], trial)


def _call_together(worker: Worker, trial: Trial) -> None:
    """Calls some cases that went well at the same time, as verl's threads do, and compares the scores."""
    well = [outcome for outcome in trial.scored() if outcome.case.kind != "huge"]
    chosen = well[:AT_ONCE]
    if len(chosen) < 2:
        return
    limit_s = trial.limit_s + sum(outcome.seconds for outcome in chosen)
    try:
        replies = worker.ask(("call", [outcome.case.arguments() for outcome in chosen]), limit_s)
    except (TimeoutError, WorkerDied) as error:
        trial.together_failed = str(error)
        return
    for outcome, reply in zip(chosen, replies, strict=True):
        if reply["score"] != outcome.score:
            trial.together_failed = trial.together_failed or reply["error"]
            trial.differing.append((outcome.case, outcome.score, reply["score"]))
