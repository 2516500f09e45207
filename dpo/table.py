"""The validation pairs that the model judges best and worst, for people to read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.data.conversation import as_messages
from dpo.dataset import PreferenceDataset
from dpo.pairs import PairRecords

ROWS = 20  # at each end


def write_answers(folder: Path, step: int, records: Any, dataset: Any) -> Path:
    """Write ``answers_<step>.jsonl``: the answers that the model judges most wrongly, then those it judges best.

    Args:
        folder: Where to; made when missing.
        step: Training step.
        records: ``AnswerRecords`` of all validation answers.
        dataset: ``AnswerDataset``; has their texts.
    """
    gains = [reward if wanted else -reward for reward, wanted in zip(records.reward, records.wanted, strict=True)]

    def line(index: int) -> dict[str, Any]:
        row = dataset.rows[records.pair[index]]
        return {
            "step": step,
            "label": bool(records.wanted[index]),
            "reward": records.reward[index],
            "prompt": as_messages(row["prompt"], "user"),
            "completion": as_messages(row["completion"], "assistant"),
        }

    return _write_ends(folder / f"answers_{step}.jsonl", gains, line)


def write_margins(folder: Path, step: int, records: PairRecords, dataset: PreferenceDataset) -> Path:
    """Write ``margins_<step>.jsonl``: the pairs with the smallest and the largest reward margins, smallest first.

    Args:
        folder: Where to; made when missing.
        step: Training step.
        records: Of all validation pairs.
        dataset: Has their texts.
    """
    margins = [c - r for c, r in zip(records.chosen_reward, records.rejected_reward, strict=True)]

    def line(index: int) -> dict[str, Any]:
        row = dataset.rows[records.pair[index]]
        return {
            "step": step,
            "margin": margins[index],
            "reward_chosen": records.chosen_reward[index],
            "reward_rejected": records.rejected_reward[index],
            "prompt": as_messages(row["prompt"], "user"),
            "chosen": as_messages(row["chosen"], "assistant"),
            "rejected": as_messages(row["rejected"], "assistant"),
        }

    return _write_ends(folder / f"margins_{step}.jsonl", margins, line)


def _write_ends(file: Path, values: list[float], line: Callable[[int], dict[str, Any]]) -> Path:
    """Write the lines of the smallest and of the largest values, smallest first."""
    order = sorted(range(len(values)), key=values.__getitem__)
    shown = order if len(order) <= 2 * ROWS else order[:ROWS] + order[-ROWS:]
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        for index in shown:
            stream.write(json.dumps(line(index), ensure_ascii=False) + "\n")
    partial.replace(file)
    return file
