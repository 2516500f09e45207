"""What of a row does not reach the result: a column counts as used only when its text is in what comes out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from common.data.forms import Example
from common.data.messages import RowError
from common.data.names import ANSWERS, PARTS, TESTS, TRUTHS, filled

RL = ("grpo", "ppo", "gspo")
_OF_REWARDS = {
    "ground_truth",
    "final_answer",
    "correct",
    "reward_model",
    "ability",
    "data_source",
    "extra_info",
    *TESTS,
}
# Parts that an algorithm has no use for, whatever the row: noted, since losing them is not a mistake.
_NOT_READ = {
    "sft": {*_OF_REWARDS, "rejected", "self_play", "agent_name", "rationale", "label", "margin"},
    "dpo": {*_OF_REWARDS, *ANSWERS, "self_play", "agent_name", "enable_thinking", "reasoning", "rationale", "label"},
    "kto": {*_OF_REWARDS, "self_play", "agent_name", "enable_thinking", "rationale", "margin"},
} | dict.fromkeys(RL, {"rejected", "reasoning", "enable_thinking", "rationale", "label", "weight", "margin"})


def check(example: Example, algorithm: str, row: dict[str, Any], allowed: bool) -> list[str]:
    """Names of what is left out of a row, for notes.

    Args:
        example: What was read.
        algorithm: One of ``rows.ALGORITHMS``.
        row: What comes out.
        allowed: Whether the user said ``--allow-loss``.

    Raises:
        RowError: If a known part does not reach the row and ``allowed`` is not set.
    """
    view, lost, noted = example.view, [], []
    not_read = _NOT_READ[algorithm]
    if not example.several and view.there <= view.used and not_read.isdisjoint(view.there):
        return []
    texts = None
    if example.several and algorithm == "sft":
        lost.append(f"{view.called(example.several)} (all answers but the first)")
    elif example.several and not all(_stands_in(text, list(texts_in(row))) for text in _distinct_of(example)):
        noted.append(f"column {view.called(example.several)} is used with its first answer only")
    for name, value in view.values.items():
        read = name in view.used
        if (read and name not in not_read) or not filled(value):
            continue
        texts = list(texts_in(row)) if texts is None else texts
        if all(_stands_in(text, texts) for text in _distinct(value)):
            continue
        known = (name in PARTS and name != "label" and name != "rationale") or name in view.doubled
        if known and name not in not_read and not (name in TRUTHS and algorithm != "sft"):
            lost.append(view.called(name))
        else:
            noted.append(f"column {view.called(name)} is not used")
    if "images" in view.values and not allowed and view.called("images") in lost:
        raise RowError(
            f"{view.called('images')}: holds pictures or sounds and only text is supported; leave such rows out with "
            "--skip-bad, or train on their text alone with --allow-loss"
        )
    if lost and not allowed:
        raise RowError(
            f"{', '.join(lost)}: would be lost; say what it is with --map PART={lost[0].split(' ')[0]} "
            "(or join columns: --map prompt=a+b), or leave it out with --allow-loss"
        )
    return noted + [f"column {name} is left out (--allow-loss)" for name in lost]


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a value, numbers written out."""
    if type(value) is str:
        yield value
    elif type(value) is dict:
        for item in value.values():
            yield from texts_in(item)
    elif type(value) in (list, tuple):
        for item in value:
            yield from texts_in(item)
    elif value is not None:
        yield str(value)


def _distinct(value: Any) -> set[str]:
    return {text for text in texts_in(value) if text.strip()}


def _distinct_of(example: Example) -> set[str]:
    return _distinct(example.view.values[example.several])


_SIGNS = re.compile(r"[\s\\{}$]")


def _stands_in(text: str, texts: list[str]) -> bool:
    text = text.strip()
    if len(text) < 4:  # a letter or a number occurs in any text by chance
        word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(text)}(?![A-Za-z0-9])")
        return any(word.search(other) for other in texts)
    if any(text in other for other in texts):
        return True
    plain = _SIGNS.sub("", text)
    return bool(plain) and len(text) < 200 and any(plain in _SIGNS.sub("", other) for other in texts)
