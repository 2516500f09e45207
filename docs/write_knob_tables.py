"""Writes the knob tables of the READMEs from ``docs/knobs.yaml``, in the order of each train.sh's block.

``python docs/write_knob_tables.py`` after a change of knobs.yaml; ``tests/unit/test_readmes.py`` compares.

A row of knobs.yaml has the knobs it describes as its name, verl's ``key``, the ``default``, and what the knob does in
English (``en``) and Chinese (``zh``). Where algorithms differ, an entry has one text for each of them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.preflight.knobs import read_block, script_of  # noqa: E402

ALGORITHMS = ("sft", "dpo", "grpo", "gspo", "ppo", "reward_model")
LIKE = {"reward_model": "dpo"}  # has the other's texts where it has none of its own
# What all algorithms have alike, said in words under the tables.
ELSEWHERE = {"EXPERIMENT_NAME", "RESUME", "TRACKERS", "USE_WANDB", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_NAME"}
READMES = {"README.md": "en", "README_zh.md": "zh"}
_TABLE = re.compile(r"(?<=\n\| --- \| --- \| --- \| --- \|\n)\| `[A-Z].*?(?=\n\n)", re.DOTALL)


def table(rows: Mapping[str, Mapping[str, Any]], algorithm: str, language: str) -> str:
    """The rows of one README, as Markdown without the heading.

    Raises:
        ValueError: If a knob of the algorithm's train.sh has no row, or a row says nothing for this algorithm.
    """
    block = [knob for knob in read_block(script_of(algorithm)) if knob not in ELSEWHERE]
    row_of = {knob: names for names in rows for knob in names.split(", ")}
    if missing := [knob for knob in block if knob not in row_of]:
        raise ValueError(f"docs/knobs.yaml: has no row for {', '.join(missing)} of {algorithm}/train.sh")
    lines = []
    for names in dict.fromkeys(row_of[knob] for knob in block):
        row = rows[names]
        shown = ", ".join(f"`{name}`" for name in names.split(", ") if name in block)
        cells = [_cell(row, part, algorithm, names, language) for part in ("key", "default", language)]
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], part: str, algorithm: str, names: str, language: str) -> str:
    value = row.get(f"{part}_zh", row.get(part)) if language == "zh" else row.get(part)
    if isinstance(value, Mapping):
        value = value.get(algorithm, value.get(LIKE.get(algorithm), value.get("others")))
    if value is None:
        raise ValueError(f"docs/knobs.yaml: {names}: {part} says nothing for {algorithm}")
    return str(value)


def written(text: str, rows: Mapping[str, Mapping[str, Any]], algorithm: str, language: str) -> str:
    """A README with its knob table replaced."""
    new, count = _TABLE.subn(lambda _: table(rows, algorithm, language), text)
    if count != 1:
        raise ValueError(f"{algorithm}: the README has {count} knob tables, expected one")
    return new


def read_rows() -> dict[str, dict[str, Any]]:
    """The rows of knobs.yaml by the knobs that they describe."""
    return yaml.safe_load((ROOT / "docs" / "knobs.yaml").read_text(encoding="utf-8"))


def main() -> None:
    """Write all tables."""
    rows = read_rows()
    for algorithm in ALGORITHMS:
        for name, language in READMES.items():
            path = script_of(algorithm).with_name(name)
            path.write_text(written(path.read_text(encoding="utf-8"), rows, algorithm, language), encoding="utf-8")


if __name__ == "__main__":
    main()
