"""One curve of all stages: their metrics one after the other, and their logs in one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from common.files import write_atomically
from common.metrics.names import HEADLINES, friendly
from common.run_dir import LOG_FILE, metrics_files, metrics_path, read_metrics
from common.tail import MetricsTail

SAMPLES = ("rollouts", "validation")
# Of a stage: validations of which a higher value is better; a loss says little of a stage.
MEASURES = tuple(metric.name for metric in HEADLINES if metric.validates and metric.better == "higher")


class JoinedCurve:
    """``metrics.jsonl`` and ``train.log`` of a run with stages; a stage's steps are counted on from the one before.

    Args:
        run_dir: Of the whole run.
    """

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self.metrics = metrics_path(run_dir, 1)
        self.offset = 0

    def rebuild(self, folders: list[Path]) -> None:
        """Write the metrics of all stages again, attempts of each joined.

        Args:
            folders: Of the stages in their order; those that do not exist yet are skipped.
        """
        lines, self.offset = [], 0
        for folder in folders:
            records = read_metrics(folder) if folder.is_dir() else []
            lines += [self._line(record) for record in records]
            self._link_samples(folder)
            self.offset += max((record["step"] for record in records), default=0)
        write_atomically(self.metrics, "".join(lines))

    def _link_samples(self, folder: Path) -> None:
        """Show a stage's sampled answers under the run's own steps; links, so they take no further room."""
        for kind in SAMPLES:
            for file in folder.glob(f"{kind}/*.jsonl"):
                if file.stem.isdigit():
                    target = self.run_dir / kind / f"{self.offset + int(file.stem)}.jsonl"
                    target.parent.mkdir(exist_ok=True)
                    target.unlink(missing_ok=True)
                    os.link(file, target)

    def _line(self, record: dict[str, Any]) -> str:
        return json.dumps({"step": self.offset + record["step"], "data": record["data"]}, ensure_ascii=False) + "\n"

    def begin(self, folder: Path) -> None:
        """Follow the attempt of a stage that has just been started; steps of its earlier attempts count once."""
        attempts = metrics_files(folder) if folder.is_dir() else []
        earlier = max((record["step"] for record in read_metrics(folder)), default=0) if attempts else 0
        self.offset -= earlier
        self.last = 0
        self.tail = MetricsTail(metrics_path(folder, len(attempts) + 1))
        self.log = folder / LOG_FILE
        self.log_offset = self.log.stat().st_size if self.log.is_file() else 0

    def follow(self) -> None:
        """Append what is new."""
        records = self.tail.records()
        if records:
            with self.metrics.open("a", encoding="utf-8") as stream:
                stream.writelines(self._line(record) for record in records)
            self.last = max(self.last, *(record["step"] for record in records))
        if self.log.is_file():
            with self.log.open("rb") as source, (self.run_dir / LOG_FILE).open("ab") as target:
                source.seek(self.log_offset)
                new = source.read()
                target.write(new)
                self.log_offset += len(new)

    def end(self) -> None:
        """Take in the rest and count on."""
        self.follow()
        self.offset += self.last


def scores(folder: Path) -> dict[str, Any]:
    """First and last validation of a stage; empty when it has none."""
    found = [friendly(record["data"]) for record in read_metrics(folder)] if folder.is_dir() else []
    for name in MEASURES:
        values = [values[name] for values in found if name in values]
        if values:
            return {"measure": name, "first": values[0], "last": values[-1]}
    return {}
