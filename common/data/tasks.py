"""Tasks that are generated: ``prepare reasoning-gym:TASK`` writes rows whose answers their own scorers score."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from common.data.convert import Options, Source, convert
from common.data.generator import dataset_of
from common.data.readers.files import DataError
from common.data.report import Report

PREFIX = "reasoning-gym:"
SYSTEM = "Think step by step, then write the final answer between <answer> and </answer>."
VALIDATION = 20  # one row in so many, at least 32 and at most 500


def prepare_task(
    name: str, target: Path, size: int, seed: int, config: dict[str, Any], algorithm: str | None = None
) -> list[Report]:
    """Write ``train.parquet`` and ``val.parquet`` of a generated task; no question of the second is in the first.

    For ``sft`` the answer alone is taught, in the wanted form: a start for a model that is never right.

    Args:
        name: ``reasoning-gym:TASK``.
        target: Folder for the two files.
        size: Rows to train on.
        seed: Of the generator.
        config: Further settings of the task.
        algorithm: ``grpo``, ``ppo``, ``gspo`` or ``sft``.

    Raises:
        DataError: If the task is not known, or generates too few different questions.
    """
    if algorithm not in (None, "grpo", "ppo", "gspo", "sft"):
        raise DataError(f"--algo {algorithm}: a generated task has a scorer and one answer; use grpo, ppo, gspo or sft")
    if size < 1:
        raise DataError(f"--size {size}: must be at least 1")
    task, settings = name.removeprefix(PREFIX), json.dumps(config, sort_keys=True)
    validation = min(500, max(32, size // VALIDATION))
    made_of = 2 * (size + validation)  # rows; some tasks repeat a question
    try:
        dataset = dataset_of(task, seed, made_of, settings)
    except ValueError as error:
        raise DataError(str(error)) from error
    rows: dict[str, dict[str, Any]] = {}
    tried = 0
    while len(rows) < size + validation and tried < made_of:
        entry = dataset[tried]
        made = _taught(entry) if algorithm == "sft" else _row((task, seed, made_of), tried, config, entry)
        if made is None:
            raise DataError(f"{name}: has a scorer and no answer that could be taught; use grpo, ppo or gspo")
        rows.setdefault(entry["question"], made)
        tried += 1
    if len(rows) <= validation:
        raise DataError(f"{name}: only {len(rows)} different questions in {tried} rows; change --config or --seed")
    distinct = list(rows.values())
    sides = {"train": distinct[:-validation], "val": distinct[-validation:]}
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for side, part in sides.items():
            file = Path(folder) / f"{side}.jsonl"
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part), encoding="utf-8")
            reports.append(convert([Source(file)], target / f"{side}.parquet", Options(algorithm or "grpo")))
    return reports


def _prompt(entry: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": entry["question"]}]


def _taught(entry: dict[str, Any]) -> dict[str, Any] | None:
    if entry["answer"] is None:
        return None
    answer = {"role": "assistant", "content": f"<answer>{entry['answer']}</answer>"}
    return {"messages": [*_prompt(entry), answer]}


def _row(made: tuple[str, int, int], index: int, config: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    task, seed, size = made
    answer = None if entry["answer"] is None else str(entry["answer"])
    truth = {"task": task, "seed": seed, "size": size, "index": index, "answer": answer} | (
        {"config": config} if config else {}
    )
    return {
        "data_source": f"reasoning_gym/{task}",
        "prompt": _prompt(entry),
        "ability": "reasoning",
        "reward_model": {"style": "rule", "ground_truth": json.dumps(truth, ensure_ascii=False)},
        "extra_info": {"index": index},
    }
