"""What is new on a tab, as a short text that changes with it; asked every second by every open page, so it is cheap."""

from __future__ import annotations

import zlib

from monitor.store import Monitor


def token(monitor: Monitor, tab: str, run: str, compared: list[str]) -> tuple[str, str]:
    """Looks at what a tab shows.

    Args:
        monitor: The log folder.
        tab: Name of the open tab.
        run: The run chosen, "" for none.
        compared: The runs that are compared.

    Returns:
        A token of the list of runs and one of the tab's contents.
    """
    names = f"{zlib.crc32('|'.join(monitor.rows()).encode()):x}"
    return names, f"{tab}|{run}|{_contents(monitor, tab, run, compared)}"


def _contents(monitor: Monitor, tab: str, run: str, compared: list[str]) -> str:
    if tab == "runs":
        return f"{monitor.version()}|{monitor.problem}"
    row = monitor.row(run)
    if row is None:
        return "none"
    if tab == "curves":
        metrics = monitor.metrics(run)
        return f"{metrics.version if metrics else ''}|{row.state}|{row.total}"
    return ""
