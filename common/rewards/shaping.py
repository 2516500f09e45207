"""Rewards that shape an answer and do not judge it: its length, its repetitions, its language.

Add them to one that judges, with ``combine``. Lengths are in tokens when `tokenizer_path` is given, else in
characters (an English token is about 4 characters, a Chinese one 1 to 2).
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.rewards.result import as_text, refuse

WORD = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|\w[\w'’]*?(?=[\u3400-\u9fff\uf900-\ufaff]|[^\w'’]|$)")
HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
LATIN = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")  # no single letters (variables) and no \commands
LANGUAGES = ("zh", "en")


def soft_overlong(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    max_length: int = 20480,
    buffer: int = 4096,
    tokenizer_path: str | None = None,
    **kwargs: Any,
) -> float:
    """Scores 0 up to `max_length - buffer`, falls linearly to -1 at `max_length`, and stays there.

    Source: DAPO's soft overlong punishment, arXiv 2503.14476, equation 13; its defaults.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; anything that is not a string has length 0.
        ground_truth: Unused.
        extra_info: Column `extra_info` of the row. Unused.
        max_length: L_max of the paper, in tokens or characters, above 0. Set it to your MAX_RESPONSE_LENGTH.
        buffer: L_cache of the paper, the stretch over which the score falls, in 1..max_length.
        tokenizer_path: Folder with a `tokenizer.json`, or that file: lengths are then in tokens, else in characters.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        A number in [-1, 0].

    Raises:
        ValueError: If a parameter is out of its range, or the tokenizer is not there.
    """
    if kwargs:
        refuse(kwargs, "soft_overlong", "it has max_length, buffer and tokenizer_path")
    if not 0 < buffer <= max_length:
        raise ValueError(f"buffer={buffer}: soft_overlong needs 1..max_length={max_length}")
    beyond = length(solution_str, tokenizer_path) - (max_length - buffer)
    return -min(max(beyond / buffer, 0.0), 1.0) + 0.0  # + 0.0 makes -0.0 a 0.0


def linear_length(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    max_length: int = 20480,
    tokenizer_path: str | None = None,
    **kwargs: Any,
) -> float:
    """Scores -length / max_length: 0 for an empty answer, -1 from `max_length` on; every token costs the same.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; anything that is not a string has length 0.
        ground_truth: Unused.
        extra_info: Column `extra_info` of the row. Unused.
        max_length: In tokens or characters, above 0.
        tokenizer_path: Folder with a `tokenizer.json`, or that file: lengths are then in tokens, else in characters.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        A number in [-1, 0].

    Raises:
        ValueError: If `max_length` is not above 0, or the tokenizer is not there.
    """
    if kwargs:
        refuse(kwargs, "linear_length", "it has max_length and tokenizer_path")
    if max_length <= 0:
        raise ValueError(f"max_length={max_length}: linear_length needs a number above 0")
    return -min(length(solution_str, tokenizer_path) / max_length, 1.0) + 0.0


def repetition(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, n: int = 4, **kwargs: Any
) -> float:
    """Scores minus the share of n-grams that have been there before: 0 without repetition, towards -1 in a loop.

    Source: Yeo et al., Demystifying Long Chain-of-Thought Reasoning in LLMs, arXiv 2502.03373 (N-gram repetition
    penalty), as one number for the answer: unique n-grams / n-grams - 1.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; anything that is not a string scores 0.
        ground_truth: Unused.
        extra_info: Column `extra_info` of the row. Unused.
        n: Words in an n-gram, at least 1; a Chinese character is a word. Shorter answers score 0.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        A number in (-1, 0].

    Raises:
        ValueError: If `n` is below 1.
    """
    if kwargs:
        refuse(kwargs, "repetition", "it has n")
    if n < 1:
        raise ValueError(f"n={n}: repetition needs at least 1 word in an n-gram")
    words = WORD.findall(as_text(solution_str).lower())
    grams = len(words) - n + 1
    if grams < 1:
        return 0.0
    return len(set(zip(*(words[i:] for i in range(n)), strict=False))) / grams - 1.0


def language(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    target: str = "zh",
    **kwargs: Any,
) -> float:
    r"""Scores the share of an answer's words that are in the target language.

    A Chinese character is a word, and so is a run of two or more Latin letters; variables (x) and LaTeX commands
    (\frac) are of no language.

    Source: the language consistency reward of DeepSeek-R1, arXiv 2501.12948, section 2.3.2.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; without a word of either language, or not a string, it scores 0.
        ground_truth: Unused.
        extra_info: Column `extra_info` of the row. Unused.
        target: `zh` or `en`.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: If `target` is another word.
    """
    if kwargs:
        refuse(kwargs, "language", "it has target")
    if target not in LANGUAGES:
        raise ValueError(f"target={target!r}: language knows {' and '.join(LANGUAGES)}")
    text = as_text(solution_str)
    chinese, english = len(HAN.findall(text)), len(LATIN.findall(text))
    if not chinese + english:
        return 0.0
    return (chinese if target == "zh" else english) / (chinese + english)


def length(answer: Any, tokenizer_path: str | None = None) -> int:
    """Counts the tokens of an answer when a tokenizer is given, else its characters.

    Raises:
        ValueError: If the path has no tokenizer.
    """
    text = as_text(answer)
    if tokenizer_path is None:
        return len(text)
    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate, which no tokenizer takes, becomes ?
    return len(_tokenizer(tokenizer_path).encode(text, add_special_tokens=False).ids)


@lru_cache(maxsize=4)
def _tokenizer(path: str) -> Any:
    from tokenizers import Tokenizer

    file = Path(path)
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise ValueError(f"tokenizer_path={path}: {file} is not there; give the model's folder, with tokenizer.json")
    return Tokenizer.from_file(str(file))
