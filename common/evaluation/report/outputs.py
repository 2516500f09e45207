"""Where the results go: checked before anything is generated, written under a temporary name and renamed at the end."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from common.csv_text import csv_cell
from common.data.readers.files import replaced_when_complete
from common.evaluation.report.report import Report, plain_text
from common.evaluation.settings import EvaluationError

KINDS = (".xlsx", ".json", ".jsonl", ".csv")


def check_output(path: Path) -> Path:
    """See that a file can be written, and make its folder.

    Raises:
        EvaluationError: If its kind is unknown, it cannot be written, or a program has it open.
    """
    if path.suffix.lower() not in KINDS:
        known = ", ".join(kind[1:] for kind in KINDS)
        raise EvaluationError(f"--output_file {path}: cannot write {path.suffix or 'no suffix'}; known are {known}")
    if path.is_dir():
        raise EvaluationError(f"--output_file {path}: is a folder; give a file in it, e.g. {path}/results.xlsx")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            with path.open("r+b"):
                pass
    except OSError as error:
        raise EvaluationError(f"--output_file {path}: cannot be written: {error.strerror}; give another one") from error
    for lock in (f".~lock.{path.name}#", f"~${path.name}"):  # LibreOffice, Excel
        if (path.parent / lock).exists():
            raise EvaluationError(
                f"--output_file {path}: is open in a spreadsheet program ({lock} is next to it); close it, or give "
                "another file"
            )
    return path


def write_report(report: Report, path: Path) -> list[Path]:
    """Write the results; returns the files. JSONL and CSV get the summary as a JSON file next to them.

    Raises:
        OSError: If the disk is full or the file cannot be replaced.
    """
    from common.evaluation.report.excel import write_excel

    writers: dict[str, Callable[[Report, Path], None]] = {
        ".xlsx": write_excel,
        ".json": write_json,
        ".jsonl": write_jsonl,
        ".csv": write_csv,
    }
    kind = path.suffix.lower()
    summary = [path.with_suffix(".summary.json")] if kind in (".jsonl", ".csv") else []
    with replaced_when_complete(path, *summary) as partials:
        writers[kind](report, partials[0])
        for partial in partials[1:]:
            partial.write_text(_dumps(report.as_dict(), indent=2), encoding="utf-8")
        for partial in partials:
            _to_disk(partial)
    return [path, *summary]


def write_json(report: Report, path: Path) -> None:
    """``{"summary": ..., "results": [...]}``, a row a line."""
    with path.open("w", encoding="utf-8") as stream:
        stream.write('{"summary": ' + _dumps(report.as_dict(), indent=2) + ',\n"results": [')
        names = [column.name for column in report.columns()]
        for number, row in enumerate(report.rows()):
            stream.write((",\n" if number else "\n") + _dumps(dict(zip(names, row, strict=True))))
        stream.write("\n]}\n")


def write_jsonl(report: Report, path: Path) -> None:
    """One row a line."""
    names = [column.name for column in report.columns()]
    with path.open("w", encoding="utf-8") as stream:
        for row in report.rows():
            stream.write(_dumps(dict(zip(names, row, strict=True))) + "\n")


def write_csv(report: Report, path: Path) -> None:
    """UTF-8 with a byte order mark, so that Excel shows Chinese; no cell can be taken for a formula."""
    with path.open("w", encoding="utf-8-sig", errors="replace", newline="") as stream:
        stream.write(_csv_line(column.name for column in report.columns()))
        for row in report.rows():
            stream.write(_csv_line(row))


def _csv_line(values: Iterable[Any]) -> str:
    return ",".join(map(_csv_cell, values)) + "\r\n"


def _csv_cell(value: Any) -> str:
    if value is None or isinstance(value, int | float) and not isinstance(value, bool):
        return csv_cell(value)
    return csv_cell(plain_text(value).replace("\0", "\u2400"))


def _dumps(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str, indent=indent)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
