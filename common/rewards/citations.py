"""Answers that cite numbered sources: are the right ones cited, does each sentence cite, is what is quoted there?"""

from __future__ import annotations

import re
from typing import Any

from common.answers.thought import behind_thought
from common.rewards.constraint_checks import sentences, words
from common.rewards.result import as_text, refuse, unusable
from common.rewards.structured import LONGEST, described

WANTED = (
    '{"sources": numbers that must be cited, "documents": the texts of all sources, or their number}, e.g. '
    '{"sources": [1, 3], "documents": 5}'
)
CITED = re.compile(r"[\[【]\s*(\d+(?:\s*[,，、;-]\s*\d+)*)\s*[\]】]")
UNKNOWN = 0  # no source has it: sources count from 1
MOST_DIGITS, WIDEST = 4, 1000  # of a number, and numbers of a range; what has more cites an unknown source
QUOTED = re.compile(r"(?:\"([^\"\n]{8,})\"|“([^”\n]{8,})”|「([^」\n]{8,})」)[\s,，.。]*(?=[\[【]\s*(\d{1,4}))")
WHITE = re.compile(r"\s+")


def citations(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    """Scores how well an answer cites its sources, from 0 to 1; 0 when it cites or quotes what is not there.

    score = F1 of the numbers cited against those that must be, times the share of sentences with a citation. A
    citation of a number that no source has, or a text in quotes before a citation that is not in that source word for
    word, makes it 0: these are made up.

    Source: the citation recall and precision of Gao et al. (ALCE), arXiv 2305.14627, with numbers in the place of a
        model that judges whether a source supports a sentence.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer, with [1], [1, 3], [1][3], [2-4] or 【1】 behind what they are for.
        ground_truth: An object or JSON: `sources`, the numbers from 1 that must be cited, and `documents`, the texts of
            all sources in their order (quotes are then looked up) or only how many there are.
        extra_info: Column `extra_info` of the row. Unused.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score`; `acc`, 1.0 for a score of 1; `format`, 1.0 when there is a citation.

    Raises:
        ValueError: If the ground truth has no sources or documents.
    """
    if kwargs:
        refuse(kwargs, "citations", "")
    wanted, texts, count = _sources(ground_truth)
    answer = (behind_thought(as_text(solution_str)) or "")[:LONGEST]
    cited = {number for found in CITED.findall(answer) for number in _numbers(found)}
    score = 0.0
    if cited and all(1 <= number <= count for number in cited) and not _misquotes(answer, texts):
        hits = len(cited & wanted)
        score = 2 * hits / (len(cited) + len(wanted)) * _share_with_citation(answer)
    return {"score": score, "acc": float(score == 1.0), "format": float(bool(cited))}


def _sources(truth: Any) -> tuple[set[int], list[str], int]:
    found = described("citations", truth, WANTED)
    if not isinstance(found, dict) or not found.get("sources") or not found.get("documents"):
        raise unusable("citations", truth, WANTED)
    documents = found["documents"]
    texts = [WHITE.sub(" ", str(text)) for text in documents] if isinstance(documents, list) else []
    count = len(texts) or int(documents)
    wanted = {int(number) for number in found["sources"]}
    if not all(1 <= number <= count for number in wanted):
        raise unusable("citations", truth, f"sources from 1 to {count}, the number of documents")
    return wanted, texts, count


def _numbers(found: str) -> set[int]:
    numbers: set[int] = set()
    for part in re.split(r"[,，、;]", found):
        ends = [int(end) if len(end.strip()) <= MOST_DIGITS else UNKNOWN for end in part.split("-")]
        first, last = min(ends), max(ends)
        numbers |= set(range(first, last + 1)) if last - first < WIDEST else {UNKNOWN}
    return numbers


def _share_with_citation(answer: str) -> float:
    # A citation may stand behind the full stop; it belongs to the sentence before it.
    moved = re.sub(r"([.!?。！？])(\s*)((?:[\[【][\d\s,，、;-]+[\]】]\s*)+)", r" \3\1\2", answer)
    said = [one for one in sentences(moved) if words(CITED.sub("", one))]
    return sum(bool(CITED.search(one)) for one in said) / len(said) if said else 0.0


def _misquotes(answer: str, texts: list[str]) -> bool:
    for *quotes, number in QUOTED.findall(answer) if texts else ():
        quote = WHITE.sub(" ", next(filter(None, quotes))).strip(" .,，。")
        if not 1 <= int(number) <= len(texts) or quote not in texts[int(number) - 1]:
            return True
    return False
