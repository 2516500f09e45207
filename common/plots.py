"""Draws a run's curves: charts/metrics.png, one panel per metric of the table that the run has; of PPO also ppo.png.

Usage: python -m common.plots outputs/my-run

Faint line: every step. Strong line: smoothed. Points: validation. Dashed line: the limit of the healthy range.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common.metrics.names import BY_NAME, METRICS, Metric, friendly, tells

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = tuple[list[int], list[float]]  # steps and values of one metric

_COLOURS = {
    "1 reward": "#1b7f5c",
    "2 loss": "#b3432f",
    "3 policy": "#3a5fa8",
    "4 preference": "#8a5a9e",
    "5 optimisation": "#a87a1f",
    "6 length": "#2f8a96",
    "7 speed": "#6b7280",
    "8 reward API": "#9a3f68",
    "9 asynchrony": "#52606d",
}
_COLUMNS, _DPI = 4, 100
_WIDTH, _HEAD, _ROW, _FOOT = 14.0, 1.05, 2.35, 0.5  # inches, so 1400 pixels wide
_LEGEND = "faint: every step     strong: smoothed     points: validation     dashed: limit of the healthy range"
_PPO = (  # panels of ppo.png: what tells whether policy and critic get on
    "reward_mean", "val_score", "policy_loss", "value_loss", "advantage_max", "explained_variance", "entropy",
    "kl_divergence", "kl_coef",
)  # fmt: skip
_MAX_POINTS = 2000  # more than this per panel cannot be seen


def plot_run(run_dir: Path) -> list[Path]:
    """Writes the charts of a run directory.

    Args:
        run_dir: outputs/<run>, with run.json and metrics*.jsonl.

    Returns:
        The files written; empty when there is nothing to plot yet.
    """
    from common.run_dir import read_metrics, read_run

    run = read_run(run_dir)
    facts = (run_dir.name, run.get("algorithm"), run.get("model_name"), run.get("state"))
    title = "   |   ".join(str(fact) for fact in facts if fact)
    return plot_records(read_metrics(run_dir), title, run_dir / "charts")


def plot_records(records: list[dict], title: str, out_dir: Path) -> list[Path]:
    """Writes metrics.png for the given records, and ppo.png when there is a critic in them.

    Args:
        records: {"step": int, "data": {verl key: value}} in order of step; several with one step are joined.
        title: Text above the panels.
        out_dir: Folder for the file; made when missing.

    Returns:
        The files written; empty when no metric of the table has a number.
    """
    panels = collect(records)
    if not panels:
        return []
    written = [_draw(panels, title, out_dir / "metrics.png")]
    if "value_loss" in panels:
        chosen = {name: panels[name] for name in _PPO if name in panels}
        written.append(_draw(chosen, title, out_dir / "ppo.png", columns=3))
    return written


def _draw(panels: dict[str, Series], title: str, path: Path, columns: int = _COLUMNS) -> Path:
    """Writes one picture of some panels."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = _HEAD + rows * _ROW + _FOOT
    with matplotlib.rc_context(_style()):
        figure = Figure(figsize=(_WIDTH, height), dpi=_DPI)
        FigureCanvasAgg(figure)
        figure.text(0.014, 1 - 0.16 / height, title, va="top", fontsize=14, fontweight="bold", parse_math=False)
        figure.text(0.014, 1 - 0.47 / height, _LEGEND, va="top", fontsize=8.5, color="#6b7280")
        top, bottom = 1 - _HEAD / height, _FOOT / height
        figure.subplots_adjust(left=0.05, right=0.988, top=top, bottom=bottom, wspace=0.26, hspace=0.42)
        first, last = _step_range(panels)
        for index, (name, series) in enumerate(panels.items()):
            axes = figure.add_subplot(rows, columns, index + 1)
            _draw_panel(axes, BY_NAME[name], series)
            axes.set_xlim(first, last)
            if index >= len(panels) - columns:
                axes.set_xlabel("step")
        return _save(figure, path)


def collect(records: list[dict]) -> dict[str, Series]:
    """Groups records by metric, in the order of the panels; metrics without one finite value are left out."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in friendly(record["data"]).items():
            found.setdefault(name, {})[int(record["step"])] = value
    shown = sorted((m for m in METRICS if m.group and m.name in found), key=lambda metric: metric.group)
    series = {m.name: (list(found[m.name]), list(found[m.name].values())) for m in shown}
    return {name: pair for name, pair in series.items() if any(map(math.isfinite, pair[1])) and tells(name, pair[1])}


def smooth(values: list[float]) -> list[float]:
    """Centred moving average over about 1/20 of the run, so that it does not lag; narrower towards both ends.

    NaN stays NaN in its place and is skipped by the average.
    """
    count, reach = len(values), max(1, len(values) // 40)
    sums, sizes = [0.0], [0]
    for value in values:
        finite = math.isfinite(value)
        sums.append(sums[-1] + (value if finite else 0.0))
        sizes.append(sizes[-1] + finite)
    result = []
    for index, value in enumerate(values):
        half = max(min(reach, index, count - 1 - index), reach // 2)
        start, end = max(0, index - half), min(count, index + half + 1)
        mean = (sums[end] - sums[start]) / max(1, sizes[end] - sizes[start])
        result.append(mean if math.isfinite(value) else math.nan)
    return result


def _draw_panel(axes: Axes, metric: Metric, series: Series) -> None:
    steps, values = series
    colour = _COLOURS[metric.group]
    stride = max(1, len(steps) // _MAX_POINTS)
    x, raw, line = steps[::stride], values[::stride], smooth(values)[::stride]
    if metric.validates:  # measured now and then: points, never smoothed
        axes.plot(x, raw, color=colour, linewidth=1.2, marker="o", markersize=4.5)
    elif len(steps) < 10:
        axes.plot(x, raw, color=colour, linewidth=1.5, marker=".", markersize=6)
    else:
        axes.plot(x, raw, color=colour, linewidth=0.9, alpha=0.3)
        axes.plot(x, line, color=colour, linewidth=1.9)
    unit = f"  ({metric.unit})" if metric.unit else ""
    axes.set_title(f"{metric.label}{unit}", loc="left", fontsize=9.5)
    latest = next(value for value in reversed(values) if math.isfinite(value))
    axes.set_title(format(latest, metric.number), loc="right", fontsize=9.5, color=colour, fontweight="bold")
    _scale(axes, values)
    _draw_limits(axes, metric)


def _scale(axes: Axes, values: list[float]) -> None:
    """Fits the axis to the values; a nearly constant curve (float noise) must not look like a wild one."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    middle, size = (low + high) / 2, max(abs(low), abs(high))
    half = max((high - low) * 0.56, size * (0.02 if high - low > 1e-6 * size else 0.2))
    half = half if size > 3e-9 else 0.1  # all zero, up to float noise
    axes.set_ylim(middle - half, middle + half)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: format(tick, ",.0f" if abs(tick) >= 1000 else ".3g")))


def _draw_limits(axes: Axes, metric: Metric) -> None:
    """Draws the healthy limits, widening the axis when the limit is near the curve (within its height)."""
    bottom, top = axes.get_ylim()
    for limit in (metric.low, metric.high):
        if limit is None:
            continue
        if bottom - (top - bottom) <= limit <= top + (top - bottom):
            margin = 0.06 * (max(top, limit) - min(bottom, limit))
            axes.set_ylim(min(bottom, limit - margin), max(top, limit + margin))
            axes.axhline(limit, color="#c2410c", linewidth=1.1, linestyle=(0, (4, 3)))


def _step_range(panels: dict[str, Series]) -> tuple[float, float]:
    """One range of steps for all panels, so that they can be compared."""
    first = min(min(steps) for steps, _ in panels.values())
    last = max(max(steps) for steps, _ in panels.values())
    margin = max((last - first) * 0.03, 0.5)
    return first - margin, last + margin


def _style() -> dict:
    return {
        "font.size": 8.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#9ca3af",
        "axes.grid": True,
        "grid.color": "#e5e7eb",
        "axes.axisbelow": True,
        "xtick.color": "#4b5563",
        "ytick.color": "#4b5563",
        "axes.labelcolor": "#4b5563",
    }


def _save(figure, path: Path) -> Path:
    """Writes the picture under a temporary name and renames it, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def main(argv: list[str] | None = None) -> int:
    """Command line: draw the charts of one run and print their paths."""
    parser = argparse.ArgumentParser(description="Draw the curves of a run into RUN_DIR/charts/.")
    parser.add_argument("run_dir", type=Path, help="run directory, e.g. outputs/my-run")
    run_dir = parser.parse_args(argv).run_dir
    if not run_dir.is_dir():
        print(f"error: RUN_DIR={run_dir} is not a folder", file=sys.stderr)
        return 2
    written = plot_run(run_dir)
    print("\n".join(map(str, written)) if written else f"{run_dir} has no metrics yet; nothing drawn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
