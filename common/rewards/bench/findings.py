"""The verdicts of the bench: does the function work where verl calls it? ``scores`` asks what it teaches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import mean

from common.rewards.bench.scores import SCORE_CHECKS
from common.rewards.bench.trial import AT_ONCE, Finding, Outcome, Trial, where

SLOW_S = 1.0  # seconds of one call from which it is named slow
BLOCKING_S = 0.2  # seconds without the event loop from which an async function is named blocking


def judge(trial: Trial) -> list[Finding]:
    """Returns the verdicts, one or more a check."""
    checks = (_exceptions, _late, _unusable, _keys, *SCORE_CHECKS, _speed, _together, _async, _pickle)
    return [finding for check in checks for finding in check(trial)]


def _grouped(outcomes: list[Outcome], field: str) -> dict[str, list[Outcome]]:
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if getattr(outcome, field):
            groups[getattr(outcome, field)].append(outcome)
    return groups


def _exceptions(trial: Trial) -> Iterator[Finding]:
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in trial.outcomes:
        if outcome.error:  # one kind is one type at one line; the messages may differ from row to row
            groups[outcome.error.partition(":")[0], outcome.error.rpartition(" (line ")[2]].append(outcome)
    for hit in groups.values():
        error = hit[0].error
        yield Finding("fail", "exceptions", f"{error}: {len(hit)} calls, first {where(hit[0])}", _advice(error, hit))
    if not groups:
        yield Finding("ok", "exceptions", f"none in {len(trial.outcomes):,} calls")


def _advice(error: str, hit: list[Outcome]) -> str:
    if "signal only works in main thread" in error or "no current event loop" in error:
        return "verl calls it in a thread, where this cannot work; use a process or a library's own time limit"
    if "unexpected keyword argument" in error or "required positional argument" in error:
        return "def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs)"
    if error.startswith("ValueError: ground_truth="):
        return "the data does not fit the reward: choose another reward, or repair the rows"
    if all(outcome.case.kind in ("empty", "huge", "broken") for outcome in hit):
        return "models do write such answers; give them a score of 0 (verl drops the group of an answer that raises)"
    return "repair the function; an answer that raises counts 0, and above 1% the run ends"


def _late(trial: Trial) -> Iterator[Finding]:
    groups = _grouped(trial.outcomes, "late")
    for late, hit in groups.items():
        rest = f"; {trial.stopped} further calls were left out" if trial.stopped else ""
        todo = "limit the length of what you search or compute; verl waits for every answer of a step"
        todo = "find what ends the process; in training it takes the reward worker with it" if "down" in late else todo
        yield Finding("fail", "time limit", f"{late}: {len(hit)} calls, first {where(hit[0])}{rest}", todo)
    if not groups:
        yield Finding("ok", "time limit", f"every call came back within {trial.limit_s:g} s")


def _unusable(trial: Trial) -> Iterator[Finding]:
    groups = _grouped(trial.outcomes, "problem")
    for problem, hit in groups.items():
        found = f"{problem}: {len(hit)} calls, first {where(hit[0])}"
        yield Finding("fail", "result", found, "check every path through the function")
    if not groups and trial.scored():
        yield Finding("ok", "result", "a finite score each time")


def _keys(trial: Trial) -> Iterator[Finding]:
    first: dict[tuple | None, Outcome] = {}
    for outcome in trial.scored():
        first.setdefault(None if outcome.keys is None else tuple(outcome.keys), outcome)
    if len(first) > 1:
        shapes = "; ".join(f"{_shape(keys)} at {where(outcome)}" for keys, outcome in first.items())
        todo = "return the same keys on every path; verl fills the missing ones with None or drops the column"
        yield Finding("fail", "keys", shapes, todo)
    elif first:
        yield Finding("ok", "keys", f"{_shape(next(iter(first)))} on every row")


def _shape(keys: tuple | None) -> str:
    return "a number" if keys is None else ", ".join(keys)


def _speed(trial: Trial) -> Iterator[Finding]:
    done = [outcome for outcome in trial.outcomes if not outcome.late]
    if len(done) < 2:
        return
    slowest = max(done[1:], key=lambda outcome: outcome.seconds)
    average = mean(outcome.seconds for outcome in done[1:])
    found = f"{_duration(average)} a call, the first {_duration(done[0].seconds)}, the slowest "
    found += f"{_duration(slowest.seconds)} at {where(slowest)}; loading {_duration(trial.load_s)}"
    if slowest.seconds > SLOW_S:
        todo = "limit the length of what you search; every step waits for its slowest answer"
        yield Finding("warn", "speed", found, todo)
    else:
        yield Finding("ok", "speed", found)


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _together(trial: Trial) -> Iterator[Finding]:
    if trial.together_failed:
        todo = "it shares something that is not safe with several threads; give each call its own, or use a lock"
        yield Finding("fail", "several at once", f"failed: {trial.together_failed}", todo)
    elif trial.differing:
        case, alone, together = trial.differing[0]
        found = f"row {case.row} scored {alone:g} alone and {together:g} together with others"
        yield Finding("warn", "several at once", found, "random on purpose? else it shares state between threads")
    elif len(trial.scored()) > 1 and not trial.stopped:
        yield Finding("ok", "several at once", f"same scores with up to {AT_ONCE} calls at the same time")


def _async(trial: Trial) -> Iterator[Finding]:
    if not trial.is_async:
        yield Finding("ok", "from async code", "a plain function: verl runs it in a thread of its event loop")
        return
    worst = max(trial.outcomes, key=lambda outcome: outcome.blocked_s, default=None)
    if worst and worst.blocked_s > BLOCKING_S:
        found = f"async, and holds the event loop for {_duration(worst.blocked_s)} at {where(worst)}"
        todo = "await what takes long (asyncio.to_thread), or make it a plain def"
        yield Finding("warn", "from async code", found, todo)
    else:
        yield Finding("ok", "from async code", "async def: verl awaits it")


def _pickle(trial: Trial) -> Iterator[Finding]:
    if trial.pickle_problem:
        todo = "make locks, clients and open files inside the function; verl.trainer.main_eval sends it to Ray workers"
        yield Finding("warn", "pickle", f"cannot be sent to another process: {trial.pickle_problem}", todo)
    else:
        yield Finding("ok", "pickle", "can be sent to a Ray worker")
