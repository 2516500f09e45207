"""What the model was asked and what it answered: verl's dumps, rollouts/<step>.jsonl and validation/<step>.jsonl."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from common.files import read_regular
from monitor.choices import MAX_WANTED
from monitor.plain import carried, plain_tree

SOURCES = ("rollouts", "validation")
MAX_BYTES = 64 << 20  # of one step's file; the rest is left out, and the page says so
MAX_FOLLOWED = 400  # samples of one prompt over the run
_UID = re.compile(r"(.+)_\d+_\d+")  # verl: the prompt's own id, number of the answer, number of the turn
_ROLE = re.compile(r"^(system|user|assistant|tool)$", re.MULTILINE)
_FIXED = {"input", "output", "gts", "score", "step", "uid"}


@dataclass(frozen=True)
class Sample:
    """One answer.

    Args:
        number: Its place in the file, from 0.
        step: The step that it was made in.
        prompt: What the model was asked, as the tokenizer's template shows it.
        answer: What it answered.
        truth: What was expected, "" when the data has none.
        score: Its reward, None when there is none.
        parts: What the reward function returned next to the score, by name.
        group: Equal for the answers to one prompt in one step.
    """

    number: int
    step: int
    prompt: str
    answer: str
    truth: str
    score: float | None
    parts: dict[str, Any]
    group: str


def steps_of(folder: Path) -> list[int]:
    """The steps that a folder has samples of, ascending."""
    try:
        return sorted(int(path.stem) for path in folder.iterdir() if path.suffix == ".jsonl" and path.stem.isdecimal())
    except OSError:
        return []


def read_step(folder: Path, step: int) -> tuple[list[Sample], str]:
    """Reads the samples of one step.

    Returns:
        The samples as they are in the file, and what is wrong with it: "" or a key of monitor/texts.yaml.
    """
    path = folder / f"{step}.jsonl"
    try:
        found = path.stat()
        return _read(path, step, found.st_size, found.st_mtime_ns)
    except OSError:
        return [], "samples_gone"


@lru_cache(maxsize=12)
def _read(path: Path, step: int, size: int, changed: int) -> tuple[list[Sample], str]:
    data = read_regular(path, MAX_BYTES)
    lines = data.split(b"\n")
    wrong = ""
    if size > MAX_BYTES:
        lines, wrong = lines[:-1], "samples_cut"
    samples = [sample for number, line in enumerate(lines) if (sample := _sample(line, number, step))]
    if len(samples) < sum(map(bool, lines)):
        wrong = wrong or "samples_damaged"
    return samples, wrong


def _sample(line: bytes, number: int, step: int) -> Sample | None:
    try:
        return _sample_of(_loads(line), number, step)
    except (ValueError, RecursionError, OverflowError):
        return None


def _loads(line: bytes) -> object:
    """Reads JSON; Python's own reader takes the NaN and the halves of letters that Python's writer makes."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return plain_tree(json.loads(line), carried) if line.endswith((b"}", b"}\r")) else None


def _sample_of(row: object, number: int, step: int) -> Sample | None:
    if not isinstance(row, dict) or "output" not in row:
        return None
    score = row.get("score")
    uid = _UID.fullmatch(str(row.get("uid", "")))
    return Sample(
        number=number,
        step=step,
        prompt=str(row.get("input", "")),
        answer=str(row["output"]),
        truth="" if row.get("gts") is None else str(row["gts"]),
        score=float(score) if isinstance(score, (int, float)) else None,
        parts={str(key): value for key, value in row.items() if key not in _FIXED},
        group=uid.group(1) if uid else str(row.get("input", "")),
    )


def choose(samples: Sequence[Sample], text: str, order: str) -> list[Sample]:
    """Filters and sorts.

    Args:
        samples: Of one step.
        text: Words that prompt or answer must hold, in any case; "" for all.
        order: "high" or "low" score first, or "file".
    """
    words = text[:MAX_WANTED].lower().split()
    kept = [one for one in samples if all(word in f"{one.prompt}\n{one.answer}".lower() for word in words)]
    if order == "file":
        return kept
    missing = float("-inf") if order == "high" else float("inf")
    return sorted(kept, key=lambda one: missing if one.score is None else one.score, reverse=order == "high")


def group_of(samples: Sequence[Sample], sample: Sample) -> list[Sample]:
    """The answers to the same prompt in the same step, best first."""
    return choose([one for one in samples if one.group == sample.group], "", "high")


def follow(folder: Path, prompt: str, seconds: float = 4.0) -> tuple[list[tuple[int, list[Sample]]], bool]:
    """Looks for a prompt in the samples of all steps.

    Args:
        folder: rollouts or validation of a run.
        prompt: The prompt as it was shown to the model.
        seconds: Stop looking after this time; the newest steps come first.

    Returns:
        Step and answers, ascending, and whether all steps were looked at.
    """
    needles = {json.dumps(prompt, ensure_ascii=plain)[1:-1].encode() for plain in (False, True)}
    found, count, end = [], 0, time.monotonic() + seconds
    for step in reversed(steps_of(folder)):
        if time.monotonic() > end or count >= MAX_FOLLOWED:
            return found[::-1], False
        try:
            data = read_regular(folder / f"{step}.jsonl", MAX_BYTES)
        except OSError:
            continue
        if not any(needle in data for needle in needles):
            continue
        lines = (line for line in data.split(b"\n") if any(needle in line for needle in needles))
        samples = [
            one for number, line in enumerate(lines) if (one := _sample(line, number, step)) and one.prompt == prompt
        ]
        if samples:
            found.append((step, samples))
            count += len(samples)
    return found[::-1], True


def question(prompt: str) -> str:
    """The last thing that the user said in a prompt of a chat template; the whole prompt where it has no roles."""
    parts = _ROLE.split(prompt)
    asked = [text for role, text in zip(parts[1::2], parts[2::2], strict=True) if role == "user" and text.strip()]
    return asked[-1].strip() if asked else prompt


def turns_of(answer: str) -> list[tuple[str, str]]:
    """The turns of a conversation with tools or an environment: role and text of each; one turn where it has no roles.

    verl decodes without special tokens, so that of a chat template's turn its role is left on a line of its own. Only
    what alternates is taken for turns, so that a word in an answer does not cut it.
    """
    parts = _ROLE.split(answer)
    roles, texts = ["assistant", *parts[1::2]], parts[0::2]
    ours = [role == "assistant" for role in roles]
    if len(roles) < 3 or any(before and after for before, after in zip(ours, ours[1:], strict=False)):
        return [("assistant", answer)]
    return [(role, text.strip()) for role, text in zip(roles, texts, strict=True)]


def share_of_flat_groups(samples: Sequence[Sample]) -> float | None:
    """The share of the groups in which all answers score the same, so that they teach nothing; None without groups."""
    groups: dict[str, list[float]] = {}
    for sample in samples:
        if sample.score is not None:
            groups.setdefault(sample.group, []).append(sample.score)
    several = [scores for scores in groups.values() if len(scores) > 1]
    return sum(min(scores) == max(scores) for scores in several) / len(several) if several else None
