"""What a row accepts as right: one answer or several, in the shapes in which data sets and verl hand them over."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

# Objects with accepted answers: {"target": [...]} of Search-R1, SQuAD's text, value and aliases of TriviaQA.
KEYS = ("target", "targets", "text", "value", "aliases", "answers", "answer")


def accepted(truth: Any) -> list[str | int | float]:
    """Returns the answers of which any one counts.

    Args:
        truth: Column `reward_model.ground_truth`: a text or number; a list, tuple or numpy array of such; an object
            that holds them under one of `KEYS`; or a text that is a list of texts in JSON or Python, which then
            counts as it is and by its items. A list of numbers in a text ("[1, 2]") stays one answer.

    Returns:
        Texts, stripped, and numbers, at least one.

    Raises:
        ValueError: If there is none, or one is empty or neither text nor number.
    """
    answers = _listed(truth)
    if not answers:
        raise ValueError("it holds no answer")
    return answers


def _listed(truth: Any) -> list[str | int | float]:
    if hasattr(truth, "tolist"):  # numpy's arrays and numbers
        truth = truth.tolist()
    if isinstance(truth, Mapping):
        truth = [truth[key] for key in KEYS if truth.get(key) is not None]
    if isinstance(truth, list | tuple | set | frozenset):
        return [answer for one in truth for answer in _listed(one)]
    if isinstance(truth, bool) or not isinstance(truth, str | int | float):
        raise ValueError(f"{type(truth).__name__} is neither text nor number")
    if not isinstance(truth, str):
        return [truth]
    text = truth.strip()
    if not text:
        raise ValueError("an answer is empty")
    return [text, *_written_list(text)]


def _written_list(text: str) -> list[str]:
    """Returns the items of a list of texts that was written into a text, as older files and CSV have it."""
    if not (text[0] in "[{" and text[-1] in "]}" and ('"' in text or "'" in text)):
        return []
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, Mapping):
            value = next((value[key] for key in KEYS if value.get(key)), None)
            value = [value] if isinstance(value, str) else value
        if isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value):
            return [one.strip() for one in value]
    return []
