"""Rows a second of ``common.data_utils convert`` against the ``datasets`` library doing the same work, in turn.

``python benchmarks/convert_rows.py --rows 1000000 --pairs 3`` makes a JSONL file of questions with worked answers (650
bytes a row), and turns it into verl's RL rows both ways, each in a separate process.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = "each box holds seven pens so the shop sells twelve boxes and keeps half of what is left over".split()


def write_rows(path: Path, rows: int) -> None:
    """Questions and worked answers of varying text, the same for the same number of rows."""
    chosen = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            question = " ".join(chosen.choices(WORDS, k=40))
            answer = " ".join(chosen.choices(WORDS, k=80))
            stream.write(json.dumps({"question": f"{question} {number}?", "answer": f"{answer}\n#### {number}"}) + "\n")


def with_kit(source: Path, target: Path) -> None:
    """The way of this project."""
    from common.data_utils import json_to_parquet

    json_to_parquet(source, target, algorithm="grpo")


def with_datasets(source: Path, target: Path) -> None:
    """The usual way: load, map row by row, write."""
    from datasets import load_dataset

    def to_row(row: dict, index: int) -> dict:
        answer = row["answer"]
        return {
            "data_source": "rows",
            "prompt": [{"role": "user", "content": row["question"]}],
            "ability": "general",
            "reward_model": {"style": "rule", "ground_truth": answer.split("####")[-1].strip()},
            "extra_info": {"index": index, "answer": answer},
        }

    with tempfile.TemporaryDirectory() as cache:
        rows = load_dataset("json", data_files=str(source), split="train", cache_dir=cache)
        rows.map(to_row, with_indices=True, remove_columns=rows.column_names).to_parquet(str(target))


WAYS = {"kit": with_kit, "datasets": with_datasets}


def run_alone(way: str, source: Path, target: Path) -> tuple[float, float]:
    """Seconds and peak memory (MiB) of one conversion in a separate process, imports counted."""
    started = time.perf_counter()
    command = [sys.executable, __file__, "--way", way, "--source", str(source), "--target", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, float(done.stdout.split()[-1])


def main() -> None:
    """Run the pairs and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        WAYS[arguments.way](arguments.source, arguments.target)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.jsonl"
        write_rows(source, arguments.rows)
        ratios = []
        for number in range(arguments.pairs):
            order = list(WAYS) if number % 2 == 0 else list(WAYS)[::-1]
            found = {way: run_alone(way, source, Path(folder) / f"{way}.parquet") for way in order}
            ratios.append(found["datasets"][0] / found["kit"][0])
            shown = ", ".join(f"{way} {found[way][0]:.1f} s {found[way][1]:.0f} MiB" for way in WAYS)
            print(f"{shown}: {ratios[-1]:.2f} times as fast", flush=True)
        print(f"median {statistics.median(ratios):.2f}, {arguments.rows:,} rows, {source.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
