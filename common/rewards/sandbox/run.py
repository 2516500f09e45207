r"""Runs programs that a model wrote, so that neither the machine nor the training suffers from them.

    >>> run("print(int(input()) * 2)", [{"kind": "stdin", "input": "21", "limit": 100}])
    [{'status': 'ok', 'out': '42\n'}]

Each run is a separate process that confines itself first (`sandbox_child.py`), with all that this machine offers:
`.venv/bin/python -m common.rewards.sandbox` prints what that is. docs/code_reward.md says what a hostile program can
still do.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterable

from common.rewards.sandbox import execute as mechanism
from common.rewards.sandbox import probe
from common.rewards.sandbox.execute import Limits, SandboxError

# What a program of a model must not get at; without one of them it is not run unless the user says so by name.
REQUIRED = ("read", "write", "network", "environment", "processes")
_first = threading.Lock()


def run(program: str, tests: list[dict], limits: Limits | None = None, require: Iterable[str] = REQUIRED) -> list[dict]:
    """Runs one program against its tests, from any thread; at most one program a core runs at a time.

    Args:
        program: Python source.
        tests: What to run; the forms are in `sandbox_child.py`. `limit` is the most bytes a test may give.
        limits: What the run may use.
        require: Names of protections (those of `limits()`) without which nothing is run; () runs it in any case.

    Returns:
        For each test `status` ("ok", "error": an exception or exit status, "crash": a signal, "timeout", "output" or
        "disk": more than allowed, "exit": ended before this test, "not run": time used up) and `out`, the text it gave.

    Raises:
        SandboxError: A required protection is missing, or the sandbox itself failed.
    """
    protections = _protections()
    required = [require] if isinstance(require, str) else require
    missing = [name for name in required if not protections.get(name, (False,))[0]]
    if missing:
        known = ", ".join(protections)
        raise SandboxError(
            f"this machine cannot enforce {', '.join(missing)}, so no program is run; `.venv/bin/python -m "
            "common.rewards.sandbox` shows why, verl's sandbox_fusion runs them elsewhere, and require (by default "
            f"{', '.join(REQUIRED)}) without it runs them here all the same (known: {known})"
        )
    limits = limits or Limits()
    if limits.forks and not {"namespaces", "uid"} & set(mechanism.plan()):
        raise SandboxError("forks=True needs namespaces or root: here nothing could kill what a program leaves behind")
    return mechanism.execute(program, tests, limits, mechanism.plan())


def limits() -> dict[str, tuple[bool, str]]:
    """Says what is enforced here, detected by running programs that try to break it.

    The first call in a process takes about a second, and logs a warning that names what is missing.

    Returns:
        For each protection whether it held, and by what means, or why it is missing.

    Raises:
        SandboxError: No program can be run at all.
    """
    with _first:
        return _limits()


_protections = limits  # `run` has a parameter of that name


@functools.lru_cache(maxsize=1)
def _limits() -> dict[str, tuple[bool, str]]:
    found = probe.try_all(mechanism.plan(), mechanism.reasons())
    missing = [f"{name} ({how})" for name, (held, how) in found.items() if not held]
    if missing:
        logging.getLogger(__name__).warning("The sandbox for programs cannot enforce here: %s", "; ".join(missing))
    return found


def main() -> None:
    """Prints what is enforced on this machine, and how."""
    from rich.table import Table

    from common.console import SafeConsole

    table = Table("protection", "enforced", "how, or why not", title="Programs run here under these limits")
    for name, (held, how) in limits().items():
        table.add_row(name, "[green]yes[/]" if held else "[bold red]no[/]", how)
    console = SafeConsole()
    console.print(table)
    for name, reason in mechanism.reasons().items():
        console.print(f"{name}: {reason or 'works'}", highlight=False)
