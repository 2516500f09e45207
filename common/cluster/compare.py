"""What differs between the machines of a run, in words, each with what to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

FIXES = {
    "NNODES": "start all with the same number",
    "script": "start the same train.sh everywhere",
    "arguments": "start all with the same arguments",
    "python": "use one Python version: ./setup_env.sh with the same Python on each",
    "kit commit": "check out one commit on all, without changed files",
    "kit folder": "put the kit in the same folder on all, or on a disk that they share",
}
MAX_DRIFT = 5.0  # seconds between two clocks
FEW = 0.5  # share of the most memory that another machine has


def name_of(machine: dict[str, Any]) -> str:
    """A machine as messages name it."""
    return f"{machine['host']} (NODE_RANK={machine['rank']}, {machine['address']})"


def differences(machines: Sequence[dict[str, Any]], gpus_wanted: int | None, on_cpu: bool) -> list[str]:
    """All that keeps the machines from starting together.

    Args:
        machines: Facts of each, the first machine's first.
        gpus_wanted: ``N_GPUS``, None for auto: then all must have as many.
        on_cpu: No GPU is used.
    """
    found = []
    for name in machines[0]["equal"]:
        values = [machine["equal"].get(name) for machine in machines]
        if any(value != values[0] for value in values):
            fix = FIXES.get(name, "install the same version on all: ./setup_env.sh of one commit does")
            found.append(f"{name} differs: {_each(machines, values)}; {fix}")
    return found + ([] if on_cpu else _gpus(machines, gpus_wanted))


def _gpus(machines: Sequence[dict[str, Any]], asked: int | None) -> list[str]:
    counts = [machine["gpus"] for machine in machines]
    if asked is None and any(count != counts[0] for count in counts):
        return [f"the number of GPUs differs: {_each(machines, counts)}; set N_GPUS={min(counts)}, or free the others"]
    few = [machine for machine in machines if asked is not None and machine["gpus"] < asked]
    if few:
        return [f"N_GPUS={asked}: fewer GPUs are visible: {_each(few, [one['gpus'] for one in few])}; lower N_GPUS"]
    return []


def file_differences(machines: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]], outputs: str) -> list[str]:
    """What differs in files, whether OUTPUTS_DIR is one folder, and who cannot reach whom.

    Args:
        machines: Facts of each.
        answers: What each found of the first machine's list: ``sizes``, ``sees``, ``shut``.
        outputs: The folder of runs on the first machine.
    """
    found = []
    for path, size in answers[0]["sizes"].items():
        values = [answer["sizes"].get(path) for answer in answers]
        if any(value != size for value in values):
            said = _each(machines, [value or "not there" for value in values])
            found.append(f"{path} differs: {said}; copy it, or put it on a disk that all share")
    alone = [machine for machine, answer in zip(machines, answers, strict=True) if not answer["sees"]]
    if alone:
        found.append(
            f"OUTPUTS_DIR={outputs} is not the first machine's folder on {', '.join(map(name_of, alone))}, so each "
            "would keep its own pieces of a checkpoint; set OUTPUTS_DIR on all machines to one folder that they share, "
            "and start all as the same user"
        )
    for machine, answer in zip(machines, answers, strict=True):
        for other, problem in answer["shut"].items():
            found.append(
                f"{name_of(machine)} cannot open a connection to {other}: {problem}; open all ports above 1023 between "
                "the machines: torch and Ray choose theirs when they start"
            )
    return found


def remarks(machines: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]]) -> list[str]:
    """What to look at though the run may start: clocks and free memory."""
    found = []
    for machine, answer in zip(machines, answers, strict=True):
        if abs(answer["drift"]) > MAX_DRIFT:
            found.append(
                f"the clock of {name_of(machine)} differs by {answer['drift']:+.0f} s; start ntp or chrony there"
            )
    for kind, words in (("memory", "host memory"), ("shm", "/dev/shm")):
        most = max(machine[kind] for machine in machines)
        for machine in machines:
            if machine[kind] < FEW * most:
                found.append(
                    f"{name_of(machine)} has {machine[kind] / 2**30:.1f} GiB of {words} free and another machine "
                    f"{most / 2**30:.1f}; a run goes as far as the least of them"
                )
    return found


def _each(machines: Sequence[dict[str, Any]], values: Sequence[Any]) -> str:
    """Values with the machines that have them, those of one value together."""
    groups: dict[str, list[str]] = {}
    for machine, value in zip(machines, values, strict=True):
        shown = value if isinstance(value, str) and value else json.dumps(value) if value else "none"
        groups.setdefault("0" if value == 0 else shown, []).append(name_of(machine))
    return "; ".join(f"{value} on {', '.join(names)}" for value, names in groups.items())
