"""The validation pairs that the model judges best and worst, for people to read."""

from __future__ import annotations

import json
from pathlib import Path

from common.data.conversation import as_messages
from dpo.dataset import PreferenceDataset
from dpo.pairs import PairRecords

ROWS = 20  # at each end


def write_margins(folder: Path, step: int, records: PairRecords, dataset: PreferenceDataset) -> Path:
    """Write ``margins_<step>.jsonl``: the pairs with the smallest and the largest reward margins, smallest first.

    Args:
        folder: Where to; made when missing.
        step: Training step.
        records: Of all validation pairs.
        dataset: Has their texts.
    """
    margins = [c - r for c, r in zip(records.chosen_reward, records.rejected_reward, strict=True)]
    order = sorted(range(len(margins)), key=margins.__getitem__)
    shown = order if len(order) <= 2 * ROWS else order[:ROWS] + order[-ROWS:]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"margins_{step}.jsonl"
    partial = folder / f".{file.name}.partial"
    with partial.open("w", encoding="utf-8") as stream:
        for index in shown:
            row = dataset.rows[records.pair[index]]
            line = {
                "step": step,
                "margin": margins[index],
                "reward_chosen": records.chosen_reward[index],
                "reward_rejected": records.rejected_reward[index],
                "prompt": as_messages(row["prompt"], "user"),
                "chosen": as_messages(row["chosen"], "assistant"),
                "rejected": as_messages(row["rejected"], "assistant"),
            }
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    partial.replace(file)
    return file
