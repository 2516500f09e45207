"""What is new on a tab, as a short text that changes with it; asked every second by every open page, so it is cheap.

Each tab's file has a function ``token`` next to ``build``, which looks at what the tab shows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from monitor.runs import Row
from monitor.store import Monitor
from monitor.system import Sampler

NO_RUN = "none"


@dataclass(frozen=True)
class Asked:
    """What an open page shows.

    Args:
        monitor: The log folder.
        sampler: The machine.
        run: The run chosen, "" for none.
        compared: The runs that are compared.
    """

    monitor: Monitor
    sampler: Sampler
    run: str
    compared: list[str]

    @property
    def row(self) -> Row | None:
        """The row of the run chosen, None when that run is not there (any more)."""
        return self.monitor.row(self.run)

    def version(self, run: str) -> int:
        """Changes with every number of a run, -1 when that run is not there."""
        metrics = self.monitor.metrics(run)
        return metrics.version if metrics else -1

    def numbers(self) -> str:
        """Changes with the numbers and the state of the run chosen."""
        row = self.row
        return f"{self.version(row.id)}|{row.state}|{row.total}" if row else NO_RUN


Token = Callable[[Asked], str]


def tokens_of(tabs: Mapping[str, ModuleType]) -> dict[str, Token]:
    """The function ``token`` of each tab's module.

    Raises:
        TypeError: If a tab has none: the page would never fill it again.
    """
    lacking = [name for name, module in tabs.items() if not callable(getattr(module, "token", None))]
    if lacking:
        raise TypeError(
            f"tab {lacking[0]!r} would never be filled again: give its module a function token(asked) -> str"
        )
    return {name: module.token for name, module in tabs.items()}


def tokens(of_tabs: Mapping[str, Token], tab: str, asked: Asked) -> tuple[str, str]:
    """Looks at what a tab shows.

    Args:
        of_tabs: Result of `tokens_of`.
        tab: Name of the open tab.
        asked: What the page shows there.

    Returns:
        A token of the list of runs and one of the tab's contents.
    """
    names = f"{zlib.crc32('|'.join(asked.monitor.rows()).encode('utf-8', 'surrogateescape')):x}"
    contents = of_tabs[tab](asked) if tab in of_tabs else NO_RUN
    return names, f"{tab}|{asked.run}|{contents}"


def changed(path: Path | None) -> str:
    """Changes when a file does; "" where there is none."""
    try:
        found = path.stat() if path else None
    except OSError:
        found = None
    return f"{found.st_size}/{found.st_mtime_ns}" if found else ""
