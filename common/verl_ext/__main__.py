"""``python -m common.verl_ext``: what the kit replaces in verl or relies on, next to the verl that is installed."""

from __future__ import annotations

import sys

from common.verl_ext.private import PRIVATE
from common.verl_ext.source import SourceChanged, expect, find
from common.verl_ext.table import REPLACEMENTS
from common.verl_ext.version import installed, pinned


def main() -> int:
    """Print both tables; the exit status is 1 when a row does not fit the installed verl."""
    print(f"verl {installed()} is installed, the kit is made for {pinned()}\n")
    print(f"{len(REPLACEMENTS)} functions that are replaced (common/verl_ext/<file>.py)\n")
    wrong = [
        _show(row.target, row.read or row.target, (row.expected,), [row.module, row.why, f"until: {row.until}"])
        for row in REPLACEMENTS
        if row.is_installed
    ]
    print(f"{len(PRIVATE)} inner parts that are overridden or called\n")
    wrong += [_show(row.target, row.target, row.expected, [row.by, row.why]) for row in PRIVATE]
    print(f"{sum(wrong)} of {len(wrong)} do not fit the installed verl")
    return int(any(wrong))


def _show(target: str, read: str, texts: tuple[str, ...], notes: list[str]) -> bool:
    """Print a row; returns whether it does not fit."""
    try:
        expect(read, *texts, why=notes[0])
        state = f"{find(read).file}:{find(read).line}"
    except SourceChanged as error:
        state = f"CHANGED: {error}"
    print("\n".join([target, f"  {state}", *(f"  {note}" for note in notes), ""]))
    return state.startswith("CHANGED")


if __name__ == "__main__":
    sys.exit(main())
