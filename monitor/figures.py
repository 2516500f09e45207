"""Series to Plotly figures, as plain dictionaries: no Plotly in Python is needed, and nothing is drawn here."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.metrics.names import BY_NAME, VALIDATION_OF
from monitor.columns import Columns, Series
from monitor.i18n import Words
from monitor.series import hours, smooth, thin, value_range, within

POINT_METRICS = set(VALIDATION_OF.values())  # measured now and then: points, never smoothed
LINE, VALIDATION, LIMIT, BAD, MUTED, GRID = (
    "#2563eb",
    "#d97706",
    "#b45309",
    "#dc2626",
    "#7c8695",
    "rgba(128,138,152,.18)",
)
# Told apart by people with any colour vision (Okabe and Ito), darkened for thin lines.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#a3488e", "#b8860b", "#3a9bd1", "#6b7280", "#8c3b2f")
HEIGHT = 216  # pixels of a panel
Figure = dict[str, Any]


@dataclass(frozen=True)
class Look:
    """What a person chose for the panels.

    Args:
        smoothing: Weight of the past, 0 to 0.99.
        by_time: Hours of training on x in place of steps.
        log: Logarithmic y.
        clip: Leave outliers out of the y range.
        first: First step shown, None for the start.
        last: Last step shown, None for the end.
    """

    smoothing: float = 0.6
    by_time: bool = False
    log: bool = False
    clip: bool = False
    first: float | None = None
    last: float | None = None

    def key(self) -> str:
        """Equal keys keep a zoom; a new choice of axes resets it."""
        return f"{self.by_time}/{self.log}/{self.first}/{self.last}"


@dataclass
class Panel:
    """One figure as it is put together."""

    look: Look
    traces: list[dict[str, Any]] = field(default_factory=list)
    seen: list[np.ndarray] = field(default_factory=list)  # values that the y range has to show
    right: float = 0.0
    left: float = float("inf")

    def line(self, x: np.ndarray, values: np.ndarray, name: str, colour: str) -> None:
        """Adds the smoothed line with the raw one behind; few points are shown as points."""
        if not len(x):
            return
        keep = thin(x, values)
        if self.look.smoothing > 0 and len(x) > 2:
            line = smooth(values, self.look.smoothing)
            self._add(x[keep], values[keep], name, hoverinfo="skip", line={"color": colour, "width": 1}, opacity=0.28)
            self.seen.append(line[keep])
            text = [_short(value) for value in values[keep]]
            self._add(x[keep], line[keep], name, line={"color": colour, "width": 1.8}, text=text, raw=True)
        else:
            mode = "lines+markers" if len(x) <= 30 else "lines"
            self._add(x[keep], values[keep], name, mode, line={"color": colour, "width": 1.6}, marker={"size": 4})
        self.seen.append(values[keep])

    def points(self, x: np.ndarray, values: np.ndarray, name: str, colour: str) -> None:
        """Adds what is measured now and then."""
        if len(x):
            keep = thin(x, values)
            line, marker = {"color": colour, "width": 1.4}, {"size": 5, "color": colour}
            self._add(x[keep], values[keep], name, "lines+markers", line=line, marker=marker)
            self.seen.append(values[keep])

    def _add(self, x, y, name: str, mode: str = "lines", raw: bool = False, **rest: Any) -> None:
        template = "%{y:.4~g} (%{text})" if raw else "%{y:.4~g}"
        extra = f"<extra>{html.escape(name)}</extra>"
        trace = {"type": "scatter", "mode": mode, "name": html.escape(name), "x": _numbers(x), "y": _numbers(y), **rest}
        if "hoverinfo" not in rest:
            trace["hovertemplate"] = template + extra
        self.traces.append(trace)
        self.left, self.right = min(self.left, float(x[0])), max(self.right, float(x[-1]))

    def not_finite(self, x: np.ndarray, values: np.ndarray, bottom: float) -> None:
        """Marks NaN and infinity, which a line leaves out, at the foot of the panel."""
        bad = ~np.isfinite(values)
        if bad.any():
            where = x[bad][-200:]
            marker = {"symbol": "x", "size": 7, "color": BAD}
            trace = {"type": "scatter", "mode": "markers", "name": "NaN", "marker": marker, "x": _numbers(where)}
            trace["hovertemplate"] = "NaN / inf<extra></extra>"
            self.traces.append({**trace, "y": [bottom] * len(where)})


def metric_panel(columns: Columns, name: str, look: Look, words: Words) -> Figure | None:
    """Draws one metric of one run; None when it has no value in the range."""
    metric = BY_NAME.get(name)
    label = words.metric(name)
    panel = Panel(look)
    main = within(columns.series(name), look.first, look.last)
    validation = within(columns.series(VALIDATION_OF[name]), look.first, look.last) if name in VALIDATION_OF else None
    if not len(main[0]) and not (validation and len(validation[0])):
        return None
    x, step_time = _x(columns, main, look), columns.series("step_time")
    if name in POINT_METRICS:
        panel.points(x, main[1], label, VALIDATION)
    else:
        panel.line(x, main[1], label, LINE)
    if validation is not None and len(validation[0]):
        panel.points(_x(columns, validation, look), validation[1], words.metric(VALIDATION_OF[name]), VALIDATION)
    span = value_range(panel.seen, look.clip, look.log)
    shapes = []
    if metric and span and not look.log:
        span, shapes = _limits(metric.low, metric.high, span)
    marks = [
        hours(np.array([step]), step_time)[0] if look.by_time and len(step_time[0]) else step
        for step in columns.resumed_at()
    ]
    shapes += [_vertical(mark) for mark in marks if panel.left <= mark <= panel.right]
    if span:
        panel.not_finite(x, main[1], 10 ** span[0] if look.log else span[0])
    latest = main[1][-1] if len(main[1]) else validation[1][-1]
    number = metric.number if metric else ".4g"
    unit = f" ({metric.unit})" if metric and metric.unit else ""
    return _figure(name, label + unit, _short(latest, number), panel, span, shapes, look)


def compare_panel(runs: dict[str, Columns], name: str, look: Look, words: Words) -> Figure | None:
    """Draws one metric of several runs into one panel, a colour for each run; None when none has it."""
    panel = Panel(look)
    for place, (run_id, columns) in enumerate(runs.items()):
        colour = PALETTE[place % len(PALETTE)]
        series = within(columns.series(name), look.first, look.last)
        draw = panel.points if name in POINT_METRICS else panel.line
        draw(_x(columns, series, look), series[1], run_id, colour)
    if not panel.traces:
        return None
    span = value_range(panel.seen, look.clip, look.log)
    return _figure(name, words.metric(name), "", panel, span, [], look)


def plain_panel(key: str, title: str, lines: dict[str, tuple[list, list]], top: float | None, latest: str) -> Figure:
    """Draws lines over minutes, for the machine's last hour.

    Args:
        key: Name of the panel, kept while the page is open.
        title: Above it.
        lines: Name to minutes (0 is now) and values.
        top: End of the y axis, None to fit it.
        latest: The value shown next to the title.
    """
    look = Look(smoothing=0)
    panel = Panel(look)
    for place, (name, (x, y)) in enumerate(lines.items()):
        values = np.array(y, float)
        panel._add(np.array(x, float), values, name, line={"color": PALETTE[place % len(PALETTE)], "width": 1.4})
        panel.seen.append(values)
    panel.left, panel.right = min(-5.0, panel.left), 0.0
    span = (-0.02 * top, 1.05 * top) if top else value_range(panel.seen, False, False)
    figure = _figure(key, title, latest, panel, span, [], look)
    figure["layout"]["xaxis"]["ticksuffix"] = " min"
    return figure


def _x(columns: Columns, series: Series, look: Look) -> np.ndarray:
    if look.by_time:
        elapsed = hours(series[0], columns.series("step_time"))
        if elapsed is not None:
            return elapsed
    return series[0]


def _limits(low: float | None, high: float | None, span: tuple[float, float]) -> tuple[tuple[float, float], list]:
    """The healthy limits that are near, and the range widened to show them."""
    bottom, top = span
    height = top - bottom
    shapes = []
    for limit in (low, high):
        if limit is not None and bottom - height <= limit <= top + height:
            bottom, top = min(bottom, limit - 0.06 * height), max(top, limit + 0.06 * height)
            line = {"color": LIMIT, "width": 1, "dash": "dash"}
            shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": limit, "y1": limit, "line": line})
    return (bottom, top), shapes


def _vertical(x: float) -> dict[str, Any]:
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    return {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": float(x), "x1": float(x), "line": line}


def _figure(key: str, title: str, latest: str, panel: Panel, span, shapes: list, look: Look) -> Figure:
    margin = (panel.right - panel.left) * 0.02 or 0.5
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "tickfont": {"size": 10, "color": MUTED}}
    y_axis = {**axis, "nticks": 5, "tickformat": ".3~g", "type": "log" if look.log else "linear"}
    if span:
        y_axis["range"] = [float(span[0]), float(span[1])]
    layout = {
        "height": HEIGHT,
        "margin": {"l": 46, "r": 10, "t": 8, "b": 26},
        "showlegend": False,
        "hovermode": "x",
        "dragmode": "zoom",
        "uirevision": look.key(),
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "inherit", "size": 11, "color": MUTED},
        "hoverlabel": {"font": {"size": 11}},
        "xaxis": {**axis, "nticks": 6, "range": [panel.left - margin, panel.right + margin]},
        "yaxis": y_axis,
        "shapes": shapes,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,138,152,.6)", "activecolor": LINE},
    }
    return {"key": key, "title": title, "latest": latest, "data": panel.traces, "layout": layout}


def _numbers(values: np.ndarray) -> list[float | int | None]:
    """For JSON: six digits are more than a screen shows; NaN is null."""
    if values.dtype.kind == "i":
        return values.tolist()
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()]


def _short(value: float, number: str = ".4g") -> str:
    return format(value, number) if np.isfinite(value) else "NaN"
