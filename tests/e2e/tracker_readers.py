"""What a run left in each tracker: ``python tracker_readers.py TRACKER RUN_DIR``, with the environment that has them.

Prints ``{"step": {name: value}}`` as JSON, the later value of a step, as the tracker's own page shows it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import sys
from collections import defaultdict
from pathlib import Path

Steps = dict[int, dict[str, float]]


def read_wandb(run_dir: Path) -> Steps:
    """The records of W&B's offline files, by its own protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    steps: Steps = defaultdict(dict)
    for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb")):
        for data in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
                if "train/step" in row:
                    steps[row["train/step"]].update(row)
    return steps


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


def read_swanlab(run_dir: Path) -> Steps:
    """The last run of the group, by SwanLab's own reader of its offline files."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    folders = sorted(run_dir.glob("swanlog/run-*"), key=lambda path: path.name.split("-")[1])
    last = [folder for folder in folders if folder.name.split("-", 2)[2] == folders[-1].name.split("-", 2)[2]]
    steps: Steps = defaultdict(dict)
    for folder in last:
        reader = DataStoreReader()
        reader.open(next(folder.glob("*.swanlab")))
        for data in reader:
            record = Record()
            record.ParseFromString(data if isinstance(data, bytes) else data[0])
            if record.WhichOneof("record_type") == "scalar":
                steps[record.scalar.step].setdefault(record.scalar.key, record.scalar.value.number)
    return steps


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


READERS = {
    "wandb": read_wandb,
    "tensorboard": read_tensorboard,
    "swanlab": read_swanlab,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
}

if __name__ == "__main__":
    found = READERS[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps({step: found[step] for step in sorted(found)}))
