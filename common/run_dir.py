"""The run directory: the one interface between training, monitor and evaluation.

``outputs/<EXPERIMENT_NAME>/`` holds run.json, command.sh, train.log, metrics.jsonl (one file per attempt),
rollouts/, validation/, checkpoints/, charts/ and .hydra/.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from pathlib import Path
from typing import Any

import psutil

from common.algorithms import folder_of
from common.demo_model import DEMO_MODEL_DIR
from common.files import ROOT, write_atomically

RUN_FILE = "run.json"
LOG_FILE = "train.log"
STOP_FILE = "stopped_early.json"  # written by the trainer: {"step": n, "reason": "..."}
TARGETS_FILE = (
    "targets.json"  # written by the trainer with PROMETHEUS=true: {"ray": ["host:port"], "transfer_queue": []}
)
BEAT_FILE = ".heartbeat"  # touched while the launcher lives
BEAT_SECONDS = 10.0
DEAD_SECONDS = 90.0  # without a touch; clocks of two hosts may differ a little
STATES = ("running", "finished", "failed", "stopped")
_BLOCKS = ("knobs", "data")  # of run.json
_RESTORE = "bring it back from a copy"
TRAINED = ("actor/", "critic/", "train/")  # keys of a training step begin so
_METRICS_NAME = re.compile(r"metrics(?:\.(\d+))?\.jsonl")


def short_model_name(path: str) -> str:
    """A model as a person would call it: the last part of its path; for the result of a run, the run's name."""
    folder = Path(path)
    if folder == DEMO_MODEL_DIR:
        return "demo"
    return folder.parent.name if folder.name == "model" and folder.parent.name else folder.name


def read_run(run_dir: Path) -> dict[str, Any]:
    """Return run.json of a run directory, or an empty dictionary when there is none.

    Raises:
        ValueError: If it is damaged: no JSON, no object, or its knobs or data are none.
    """
    path = Path(run_dir) / RUN_FILE
    if not path.is_file():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error}); {_RESTORE}") from error
    if not isinstance(run, dict) or not all(isinstance(run.get(part, {}), dict) for part in _BLOCKS):
        raise ValueError(f"{path}: is not {{...}} with {' and '.join(_BLOCKS)} as {{...}} in it; {_RESTORE}")
    return run


def update_run(run_dir: Path, **fields: Any) -> dict[str, Any]:
    """Set fields of run.json, keep the others, replace the file atomically; returns the whole."""
    run = {**read_run(run_dir), **fields}
    write_atomically(Path(run_dir) / RUN_FILE, json.dumps(run, indent=2, ensure_ascii=False) + "\n")
    return run


def is_alive(run: dict[str, Any], run_dir: Path | None = None) -> bool:
    """Whether the launcher of a run still works: by its process on this host, by its heartbeat on another.

    Args:
        run: Its run.json.
        run_dir: Its folder; without it a run on another host counts as ended.
    """
    if run.get("state") != "running":
        return False
    if run.get("host") != os.uname().nodename:
        return run_dir is not None and _beats(Path(run_dir))
    try:
        process = psutil.Process(run["pid"])
        return abs(process.create_time() - run["pid_started"]) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):  # gone, or run.json holds no such numbers
        return False


def _beats(run_dir: Path) -> bool:
    try:
        return time.time() - (run_dir / BEAT_FILE).stat().st_mtime < DEAD_SECONDS
    except OSError:
        return False


def resume_command(run_dir: Path, algorithm: str) -> str:
    """What a person types to start a run again; several machines are started as they were the first time."""
    outputs = "" if run_dir.parent == ROOT / "outputs" else f"OUTPUTS_DIR={shlex.quote(str(run_dir.parent))} "
    return f"{outputs}EXPERIMENT_NAME={run_dir.name} ./{folder_of(algorithm)}/train.sh"


def metrics_path(run_dir: Path, attempt: int) -> Path:
    """The metrics file of an attempt; the first has no number, as verl's file logger truncates what it opens."""
    name = "metrics.jsonl" if attempt == 1 else f"metrics.{attempt}.jsonl"
    return Path(run_dir) / name


def metrics_files(run_dir: Path) -> list[Path]:
    """The metrics files of a run, oldest attempt first."""
    numbered = []
    for path in Path(run_dir).glob("metrics*.jsonl"):
        match = _METRICS_NAME.fullmatch(path.name)
        if match:
            numbered.append((int(match.group(1) or 1), path))
    return [path for _, path in sorted(numbered)]


def read_record(line: str | bytes) -> dict[str, Any] | None:
    """A line of a metrics file as ``{"step": n, "data": {...}}``; None where it is none (torn, too long a number)."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # also UnicodeDecodeError, and integers of more than 4,300 digits
        return None
    if not isinstance(record, dict) or not isinstance(record.get("data"), dict):
        return None
    step = record.get("step")
    return record if isinstance(step, int) and not isinstance(step, bool) and abs(step) < 2**63 else None


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read one metrics file; lines that are not records are left out, as is a torn last one, still being written."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [record for line in lines if line.strip() and (record := read_record(line)) is not None]


def join_attempts(attempts: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Join the records of several attempts into one curve.

    A later attempt starts again at a checkpoint: steps that it trained replace those of earlier attempts, and
    steps after its first that only an earlier attempt has did not lead to the present model, so they go.

    Args:
        attempts: Records ``{"step": n, "data": {...}}`` of each attempt, oldest first.

    Returns:
        One record per step, ascending; several records of one step are merged.
    """
    joined: dict[int, dict[str, Any]] = {}
    for records in attempts:
        trained = [record["step"] for record in records if _is_training(record)]
        if trained:
            joined = {step: data for step, data in joined.items() if step < min(trained)}
        for record in records:
            joined.setdefault(record["step"], {}).update(record["data"])
    return [{"step": step, "data": joined[step]} for step in sorted(joined)]


def _is_training(record: dict[str, Any]) -> bool:
    return any(key.startswith(TRAINED) for key in record["data"])


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the metrics of a run over all its attempts: ``{"step": n, "data": {verl key: value}}`` by step."""
    return join_attempts([read_records(path) for path in metrics_files(run_dir)])


def read_early_stop(run_dir: Path) -> dict[str, Any] | None:
    """Step and reason when the trainer ended itself before its last step, or None."""
    path = Path(run_dir) / STOP_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
