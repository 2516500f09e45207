"""What a tracker is given: verl's numbers with the names that users know next to them, samples, the comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from common.metrics.names import HEADLINES, friendly

SAMPLES = 20  # rows of a table
LONGEST = 2_000  # characters of a question or an answer in it
COLUMNS = ("step", "input", "output", "score")
COMPARED = ("metric", "before", "after", "best", "best_step")


def row_of(data: Mapping[str, Any], gpu: float | None = None) -> dict[str, float]:
    """One step as a tracker shows it.

    Args:
        data: verl's keys to values; what is not a number is left out.
        gpu: Mean use of the run's GPUs in percent, None where there are none.

    Returns:
        verl's names, and next to them ``train/<name>`` or ``val/<name>`` of the kit's table.
    """
    row = {key: float(value) for key, value in data.items() if isinstance(value, Real) and not isinstance(value, bool)}
    for name, value in friendly(row).items():
        row[f"val/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}"] = value
    if gpu is not None:
        row["system/gpu_utilization"] = gpu
    return row


def samples_of(run_dir: Path, step: int) -> list[dict[str, Any]]:
    """The first answers of a validation; empty when it was not written, or is being written."""
    path = run_dir / "validation" / f"{step}.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[:SAMPLES]:
        try:
            row = json.loads(line)
        except ValueError:
            return []
        texts = {name: str(row.get(name, ""))[:LONGEST] for name in ("input", "output")}
        score = row.get("score")
        rows.append({"step": step, **texts, "score": float(score) if isinstance(score, Real) else math.nan})
    return rows


def comparison(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Before, after and best of what a run is judged by, a row for each metric that it has and that has a better side.

    Args:
        records: ``{"step": n, "data": {...}}`` by step.
    """
    rows = []
    steps = [(record["step"], friendly(record["data"])) for record in records]
    for metric in HEADLINES:
        values = [
            (step, named[metric.name]) for step, named in steps if math.isfinite(named.get(metric.name, math.nan))
        ]
        if values and metric.better:
            pick = min if metric.better == "lower" else max
            step, best = pick(values, key=lambda entry: entry[1])
            ends = {"before": values[0][1], "after": values[-1][1]}
            rows.append({"metric": metric.name, **ends, "best": best, "best_step": step})
    return rows


class Gpus:
    """Use of the GPUs of this machine that the run has; there are none without NVML."""

    def __init__(self, visible: str | None):
        self._handles: list[Any] = []
        try:
            import pynvml

            pynvml.nvmlInit()
            chosen = [part.strip() for part in visible.split(",")] if visible is not None else None
            for index in range(pynvml.nvmlDeviceGetCount()):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                uuid = pynvml.nvmlDeviceGetUUID(handle)
                name = uuid.decode() if isinstance(uuid, bytes) else uuid
                if chosen is None or str(index) in chosen or name in chosen:
                    self._handles.append(handle)
        except Exception:  # no library, no driver, no right: pynvml has a class for each
            self._handles = []

    def use(self) -> float | None:
        """Their mean use in percent, None where there are none."""
        if not self._handles:
            return None
        import pynvml

        try:
            rates = [pynvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in self._handles]
        except pynvml.NVMLError:
            return None
        return sum(rates) / len(rates)
