"""Preference pairs from the answers of an RL stage: the best and the worst of each group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.rollouts import Messages, groups


@dataclass
class Harvest:
    """Pairs, and what became of the groups that gave none.

    Args:
        pairs: Rows with ``prompt``, ``chosen``, ``rejected``.
        groups: Groups of answers looked at.
        close: Groups whose best and worst answer are less than the margin apart.
        cut: Groups whose best answer has reached the length limit, so that its end is missing.
        unknown: Groups whose prompt is not in the data.
        repeated: Pairs that were there already.
    """

    pairs: list[dict[str, Messages]]
    groups: int = 0
    close: int = 0
    cut: int = 0
    unknown: int = 0
    repeated: int = 0

    def words(self) -> str:
        """The harvest in a line."""
        others = {
            "too close": self.close,
            "cut at the length limit": self.cut,
            "prompt not in the data": self.unknown,
            "repeated": self.repeated,
        }
        without = ", ".join(f"{count:,} {why}" for why, count in others.items() if count)
        return f"{len(self.pairs):,} pairs from {self.groups:,} groups" + (f" ({without})" if without else "")


def harvest(rollouts: Path, prompts: dict[str, Messages], margin: float, tokenizer: Any, max_tokens: int) -> Harvest:
    """Make a pair of each group whose best and worst answer differ.

    Args:
        rollouts: Folder with verl's dumps, ``<step>.jsonl``.
        prompts: Messages of each prompt by the text that verl dumps, see ``common.data.rollouts``.
        margin: Least difference of the scores, above 0 or equal to it.
        tokenizer: Of the model, to measure answers.
        max_tokens: ``MAX_RESPONSE_LENGTH``; a best answer as long as this has lost its end.
    """
    found = Harvest([])
    seen: set[tuple[str, str, str]] = set()
    for group in groups(rollouts):
        found.groups += 1
        best, worst = (choose(group, key=lambda line: line["score"]) for choose in (max, min))
        key = (best["input"], best["output"], worst["output"])
        if best["score"] - worst["score"] < margin or best["output"] == worst["output"]:
            found.close += 1
        elif best["input"] not in prompts:
            found.unknown += 1
        elif len(tokenizer(best["output"], add_special_tokens=False)["input_ids"]) >= max_tokens:
            found.cut += 1
        elif key in seen:
            found.repeated += 1
        else:
            seen.add(key)
            sides = {"chosen": best["output"], "rejected": worst["output"]}
            answers = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
            found.pairs.append({"prompt": prompts[best["input"]], **answers})
    return found
