"""What can be chosen for the charts."""

from __future__ import annotations

import re

from common.metrics.names import BY_NAME, VALIDATION_OF, tells
from monitor.columns import Columns
from monitor.i18n import Words

MAX_WANTED = 400  # characters of a text that is looked for; a longer one would take a thread for minutes
MAX_RANGE = 80  # characters of a range of steps


def step_range(text: str | None) -> tuple[int | None, int | None]:
    """Reads "100-500", "100-" or "-500"; anything else shows all."""
    match = re.fullmatch(r"\s*(\d{0,15})\s*[-–~:]\s*(\d{0,15})\s*", (text or "")[:MAX_RANGE])
    first, last = match.groups() if match else ("", "")
    return (int(first) if first else None), (int(last) if last else None)


def default_names(columns: Columns) -> list[str]:
    """The metrics of the table that a run has, in the order of the charts; a validation is drawn with its training."""
    found = [name for name in columns.table_names() if tells(name, columns.series(name)[1].tolist())]
    shown = sorted((name for name in found if BY_NAME[name].group), key=lambda name: BY_NAME[name].group)
    return [name for name in shown if not any(VALIDATION_OF.get(other) == name for other in shown)]


def metric_choices(columns: Columns, words: Words) -> list[tuple[str, str]]:
    """The kit's names first, then the trainer's own; label and value."""
    table = columns.table_names()
    return [(f"{words.metric(name)} · {name}", name) for name in table] + [
        (name, name) for name in columns.names() if name not in BY_NAME
    ]
