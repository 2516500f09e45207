"""What a run left in each tracker: ``python tracker_readers.py TRACKER RUN_DIR``, with the environment that has them.

Prints ``{"numbers": {"step": {name: value}}, "facts": {...}}`` as JSON: the later value of a step, as the tracker's own
page shows it, and configuration, tags, tables and pictures where the tracker's files have them.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Facts = dict[str, Any]
Steps = dict[int, dict[str, float]]


def wandb_records(run_dir: Path) -> Iterator[tuple[Path, Any]]:
    """Folder and record of W&B's offline files, by its own protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb")):
        for data in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            yield path.parent / "files", record


def items_of(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_wandb(run_dir: Path) -> Steps:
    steps: Steps = defaultdict(dict)
    for _, record in wandb_records(run_dir):
        if record.WhichOneof("record_type") == "history":
            row = items_of(record.history.item)
            if "train/step" in row:
                steps[row["train/step"]].update(row)
    return steps


def facts_of_wandb(run_dir: Path) -> Facts:
    facts: Facts = {"config": {}, "samples": {}, "charts": []}
    for files, record in wandb_records(run_dir):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            facts["config"] |= items_of(record.run.config.update)  # as the server joins them
            facts["tags"] = list(record.run.tags)
        elif kind == "summary":
            facts["last_step"] = items_of(record.summary.update).get("train/step", facts.get("last_step"))
        elif kind == "history":
            row = items_of(record.history.item)
            tables = {name: json.loads((files / row[f"{name}/path"]).read_text())["data"]
                      for name in ("val/samples", "comparison") if f"{name}/path" in row}  # fmt: skip
            if "val/samples" in tables:
                facts["samples"][row["train/step"]] = tables["val/samples"]
            facts["comparison"] = tables.get("comparison", facts.get("comparison"))
            pictures = (row[name] for name in row if name.startswith("charts/") and name.endswith("/path"))
            facts["charts"] += [(files / picture).read_bytes()[1:4].decode() for picture in pictures]
    return facts


def log_records(content: bytes) -> list[bytes]:
    """Records of a file in LevelDB's log format: blocks of 32 KiB, each part with checksum, length and kind."""
    records, part, place = [], b"", 7  # behind the file's own header
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        data = content[place + 7 : place + 7 + length]
        place += 7 + length
        part = part + data if kind in (3, 4) else data  # 1 whole, 2 first, 3 middle, 4 last
        if kind in (1, 4):
            records.append(part)
    return records


def read_tensorboard(run_dir: Path) -> Steps:
    """By TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps: Steps = defaultdict(dict)
    read = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    for name in read.Tags()["scalars"]:
        for event in read.Scalars(name):
            # a resumed run validates at its checkpoint's step again
            assert name not in steps[event.step] or name.startswith("val-"), f"{name} is there twice for {event.step}"
            steps[event.step][name] = event.value
    return steps


def swanlab_records(run_dir: Path) -> Iterator[tuple[Path, Any]]:
    """Folder and record of the last run of the group, by SwanLab's own reader of its offline files."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    folders = sorted(run_dir.glob("swanlog/run-*"), key=lambda path: path.name.split("-")[1])
    last = [folder for folder in folders if folder.name.split("-", 2)[2] == folders[-1].name.split("-", 2)[2]]
    for folder in last:
        reader = DataStoreReader()
        reader.open(next(folder.glob("*.swanlab")))
        for data in reader:
            record = Record()
            record.ParseFromString(data if isinstance(data, bytes) else data[0])
            yield folder, record


def read_swanlab(run_dir: Path) -> Steps:
    steps: Steps = defaultdict(dict)
    for _, record in swanlab_records(run_dir):
        if record.WhichOneof("record_type") == "scalar":
            steps[record.scalar.step].setdefault(record.scalar.key, record.scalar.value.number)
    return steps


def facts_of_swanlab(run_dir: Path) -> Facts:
    facts: Facts = {"samples": {}, "charts": []}
    for folder, record in swanlab_records(run_dir):
        kind = record.WhichOneof("record_type")
        if kind == "start":
            facts["tags"] = list(record.start.tags)
        elif kind == "save" and record.save.name == "config":  # the server keeps the last
            config = yaml.safe_load((folder / "files" / "config.yaml").read_text())
            facts["config"] = {name: entry["value"] for name, entry in config.items()}
        elif kind == "media":
            (item,) = record.media.value.items
            if record.media.key.startswith("charts/"):
                facts["charts"].append((folder / "media" / "image" / item.filename).read_bytes()[1:4].decode())
            else:
                rows = json.loads((folder / "media" / "echarts" / item.filename).read_text())["rowData"]
                table = [list(row.values()) for row in rows]
                if record.media.key == "comparison":
                    facts["comparison"] = table
                else:
                    facts["samples"][record.media.step] = table
    return facts


def facts_of_mlflow(run_dir: Path) -> Facts:
    run_id = json.loads((run_dir / "trackers.json").read_text())["mlflow"]["id"]
    newest = sorted(run_dir.parent.glob(f"mlflow_files/{run_id}/artifacts/config.*.json"))[-1]
    return {"config": json.loads(newest.read_text())}


def facts_of_clearml(run_dir: Path) -> Facts:
    task = json.loads((run_dir / "trackers.json").read_text())["clearml"]["id"]
    found = json.loads((Path(os.environ["CLEARML_CACHE_DIR"]) / "offline" / task / "task.json").read_text())
    data = found["configuration"]["Hyperparameters"]["value"]
    sent = [[event["type"], event["metric"], event["iter"]] for event in clearml_events(run_dir)]
    return {"config": pyhocon_or_json(data), "tags": found["tags"], "sent": sent}


def pyhocon_or_json(text: str) -> Any:
    """ClearML writes HOCON, of which this is as much as JSON has."""
    try:
        return json.loads(text)
    except ValueError:
        from clearml.utilities.pyhocon import ConfigFactory

        return ConfigFactory.parse_string(text).as_plain_ordered_dict()


def read_mlflow(run_dir: Path) -> Steps:
    """Through MLflow's client."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run_dir.parent / 'mlflow.db'}")
    run_id = json.loads((run_dir / "trackers.json").read_text())["mlflow"]["id"]
    steps: Steps = defaultdict(dict)
    for name in client.get_run(run_id).data.metrics:
        for metric in sorted(client.get_metric_history(run_id, name), key=lambda one: one.timestamp):
            steps[metric.step][name.replace("_at_", "@")] = metric.value
    return steps


def read_trackio(run_dir: Path) -> Steps:
    """From its database."""
    steps: Steps = defaultdict(dict)
    for path in Path(os.environ["TRACKIO_DIR"]).glob("*.db"):
        rows = sqlite3.connect(path).execute(
            "select step, metrics from metrics where run_name = ? order by id", (run_dir.name,)
        )
        for step, metrics in rows:
            steps[step].update(json.loads(metrics))
    return steps


def read_clearml(run_dir: Path) -> Steps:
    """From the session that it keeps without a server."""
    steps: Steps = defaultdict(dict)
    for event in clearml_events(run_dir):
        if event["type"] == "training_stats_scalar":
            title, series = event["metric"], event["variant"]
            steps[event["iter"]][title if series == title else f"{title}/{series}"] = event["value"]
    return steps


def clearml_events(run_dir: Path) -> list[dict[str, Any]]:
    task = json.loads((run_dir / "trackers.json").read_text())["clearml"]["id"]
    path = Path(os.environ["CLEARML_CACHE_DIR"]) / "offline" / task / "metrics.jsonl"
    return [event for line in path.read_text().splitlines() for event in json.loads(line)]


READERS = {
    "wandb": read_wandb,
    "tensorboard": read_tensorboard,
    "swanlab": read_swanlab,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
    "clearml": read_clearml,
}

FACTS = {
    "wandb": facts_of_wandb,
    "swanlab": facts_of_swanlab,
    "mlflow": facts_of_mlflow,
    "clearml": facts_of_clearml,
}

if __name__ == "__main__":
    tracker, folder = sys.argv[1], Path(sys.argv[2])
    found, of_tracker = READERS[tracker](folder), FACTS.get(tracker, lambda _: {})
    print(json.dumps({"numbers": {step: found[step] for step in sorted(found)}, "facts": of_tracker(folder)}))
