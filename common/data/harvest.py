"""Answers of an RL run as data to train on: the good ones for sft, good and bad ones as pairs, or each with a label."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.convert import Options, Source, convert
from common.data.lengths import load_tokenizer
from common.data.readers.files import DataError
from common.data.readers.parquet_reader import parquet_batches
from common.data.report import Report
from common.data.rollouts import Messages, dumped_texts, groups
from common.data.rows import loaded
from common.files import ROOT
from common.run_dir import read_run


@dataclass(frozen=True)
class Wanted:
    """Which answers become rows.

    Args:
        algorithm: ``sft``: an answer of at least ``min_score``; ``dpo``: the best and the worst of a group, the best of
            at least ``min_score`` and better by ``margin``; ``kto``: every answer, good from ``min_score`` on.
        min_score: Score from which on an answer is a good one.
        margin: Least difference of a pair's scores, above 0.
        best: Good answers of a prompt to take at most (sft), the best first.
        steps: Steps of the run to take; None for all.
    """

    algorithm: str
    min_score: float
    margin: float = 0.5
    best: int = 1
    steps: range | None = None


def harvest(run_dir: Path, target: Path, wanted: Wanted, val_ratio: float = 0.0) -> tuple[Report, Counter[str]]:
    """Write the answers of a run as a parquet file.

    Answers that have reached ``MAX_RESPONSE_LENGTH`` have lost their end and are left out, and so are repeated ones.

    Args:
        run_dir: Folder of a run of grpo, ppo or gspo.
        target: Parquet file to write.
        wanted: See there.
        val_ratio: Share of the prompts that goes to a validation file beside it.

    Returns:
        The door's report, and what became of the answers that gave no row.

    Raises:
        DataError: If this is no such run, its answers have tool calls in them, or none is good enough.
    """
    run = read_run(run_dir)
    rollouts = run_dir / "rollouts"
    if not any(rollouts.glob("*.jsonl")):
        raise DataError(f"{run_dir}: has no rollouts/*.jsonl; answers are those of a run of grpo, ppo or gspo")
    knobs = run.get("knobs", {})
    if knobs.get("ENV_PATH"):
        raise DataError(f"{run_dir}: episodes hold the environment's texts too, and the dump does not say which")
    if knobs.get("TOOLS_PATH"):
        raise DataError(f"{run_dir}: answers with tools hold the tools' texts too, and the dump does not say which")
    tokenizer = load_tokenizer(str(run.get("model") or knobs.get("MODEL_PATH", "")))
    prompts = dumped_texts(_prompts(run_dir, knobs.get("TRAIN_DATA", "")), tokenizer)
    limit = int(knobs.get("MAX_RESPONSE_LENGTH") or 0) or math.inf
    lost: Counter[str] = Counter()

    def whole(line: dict[str, Any]) -> bool:
        complete = len(tokenizer(line["output"], add_special_tokens=False)["input_ids"]) < limit
        lost["answers cut at the length limit"] += not complete
        return complete

    rows = _rows(rollouts, prompts, wanted, whole, lost)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{run_dir.name}.jsonl"
        with file.open("w", encoding="utf-8") as stream:
            written = sum(stream.write(json.dumps(row, ensure_ascii=False) + "\n") > 0 for row in rows)
        if not written:
            words = "; ".join(f"{count:,} {why}" for why, count in lost.items() if count) or "no answers"
            raise DataError(f"{run_dir}: no answer is good enough (--min-score {wanted.min_score:g}): {words}")
        options = Options(wanted.algorithm, val_ratio=val_ratio, dedup=True)
        return convert([Source(file)], target, options), +lost


def _prompts(run_dir: Path, train_data: str) -> Iterator[Messages]:
    files = [Path(text) for text in train_data.split(",") if text]
    for file in (path if path.is_absolute() else ROOT / path for path in files):
        if not file.is_file():
            raise DataError(f"{file}: the run's TRAIN_DATA is gone; its prompts are needed as messages")
        for batch in parquet_batches(file, ["prompt"]):
            for row in batch.to_pylist():
                yield loaded(row["prompt"])


def _rows(
    rollouts: Path,
    prompts: dict[str, Messages],
    wanted: Wanted,
    whole: Callable[[dict[str, Any]], bool],
    lost: Counter[str],
) -> Iterator[dict[str, Any]]:
    taken: Counter[str] = Counter()
    for group in groups(rollouts, wanted.steps):
        prompt = prompts.get(group[0]["input"])
        if prompt is None:
            lost["groups whose prompt is not in TRAIN_DATA"] += 1
            continue
        ranked = sorted(group, key=lambda line: -line["score"])
        if wanted.algorithm == "kto":
            for line in filter(whole, ranked):
                good = line["score"] >= wanted.min_score
                yield {"prompt": prompt, "completion": _said(line), "label": good}
            continue
        good = [line for line in ranked if line["score"] >= wanted.min_score]
        lost["groups without a good answer"] += not good
        good = [line for line in good if whole(line)]
        if wanted.algorithm == "sft":
            asked = group[0]["input"]
            for line in _distinct(good)[: max(0, wanted.best - taken[asked])]:
                taken[asked] += 1
                yield {"messages": [*prompt, *_said(line)]}
        elif good:
            bad = (line for line in reversed(ranked) if line["score"] < wanted.min_score and whole(line))
            worst = next(bad, good[-1])
            if good[0]["score"] - worst["score"] < wanted.margin or good[0]["output"] == worst["output"]:
                lost["groups whose best and worst are too close"] += 1
                continue
            yield {"prompt": prompt, "chosen": _said(good[0]), "rejected": _said(worst)}


def _distinct(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({line["output"]: line for line in reversed(lines)}.values())[::-1]


def _said(line: dict[str, Any]) -> Messages:
    return [{"role": "assistant", "content": line["output"]}]
