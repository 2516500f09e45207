"""What can be taken away: every number as CSV, the curves as a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from common.csv_text import csv_cell
from monitor.choices import default_names
from monitor.i18n import Words
from monitor.metrics_collector import RunMetrics
from monitor.series import smooth, thin, value_range

ROWS = 2_000  # written at a time
MAX_NAME = 90  # characters of a title in a picture


def csv_lines(metrics: RunMetrics, names: list[str]) -> Iterator[str]:
    """The metrics of a run as CSV, a column each and a line per step, empty where a step has no value.

    Args:
        metrics: The run.
        names: The metrics to export; none for all that the trainer wrote.
    """
    with metrics.lock:
        columns = metrics.columns
        series = {name: columns.series(name) for name in names or columns.names()}
    steps = np.unique(np.concatenate([np.empty(0, np.int64), *(steps for steps, _ in series.values())]))
    yield ",".join(["step", *map(csv_cell, series)]) + "\n"
    for start in range(0, len(steps), ROWS):
        part = steps[start : start + ROWS]
        table = [_cells(part, *one) for one in series.values()]
        rows = zip(part.tolist(), *table, strict=True)
        yield "".join(",".join(map(str, row)) + "\n" for row in rows)


def _cells(part: np.ndarray, steps: np.ndarray, values: np.ndarray) -> list[str]:
    place = np.searchsorted(steps, part)
    found = place < len(steps)
    found[found] = steps[place[found]] == part[found]
    cells = np.full(len(part), "", object)
    cells[found] = [repr(value) for value in values[place[found]].tolist()]
    return cells.tolist()


def png(metrics: RunMetrics, title: str, names: list[str], words: Words) -> bytes | None:
    """Draws the chosen metrics, or those that matter most; None when the run has no number yet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with metrics.lock:
        columns = metrics.columns
        series = {name: columns.series(name) for name in names or default_names(columns)}
    series = {name: one for name, one in series.items() if np.isfinite(one[1]).any()}
    if not series:
        return None
    across = min(4, len(series))
    down = -(-len(series) // across)
    figure = Figure(figsize=(3.6 * across, 2.5 * down + 0.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_cut(title), fontsize=12, x=0.01, ha="left", parse_math=False)
    for place, (name, (steps, values)) in enumerate(series.items(), 1):
        axes = figure.add_subplot(down, across, place)
        keep = thin(steps, values)
        axes.plot(steps[keep], values[keep], color="#2563eb", alpha=0.3, linewidth=0.8)
        axes.plot(steps[keep], smooth(values, 0.6)[keep], color="#2563eb", linewidth=1.5)
        axes.set_title(_cut(name), loc="left", fontsize=9, parse_math=False)
        axes.set_ylim(value_range([values], False, False))
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _cut(text: str) -> str:
    """A title without control characters; a long one would squeeze the charts to nothing."""
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[: MAX_NAME + 1])
    return shown if len(text) <= MAX_NAME else f"{shown[:MAX_NAME]}…"
