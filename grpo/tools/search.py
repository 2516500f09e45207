"""Search over a folder of texts as a tool: ``SEARCH_FOLDER=notes TOOLS_PATH=grpo/tools/search.py``.

Paragraphs of the folder's .md and .txt files are ranked by the words that they share with the query; rare words count
more (BM25, Robertson and Zaragoza, 2009).
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path

from verl.tools.function_tool import function_tool

SUFFIXES = (".md", ".txt")
PARAGRAPHS = 3  # in an answer
K1, B = 1.2, 0.75  # BM25's usual constants


@function_tool
def search(query: str) -> str:
    """Find passages in the documents.

    Args:
        query: Words to look for.
    """
    passages, frequencies = read_folder(os.environ.get("SEARCH_FOLDER", "docs"))
    asked = set(words(query))
    average = sum(sum(counts.values()) for _, counts in passages) / len(passages)

    def score(counts: Counter[str]) -> float:
        total = 0.0
        for word in asked & counts.keys():
            rarity = math.log(1 + (len(passages) - frequencies[word] + 0.5) / (frequencies[word] + 0.5))
            length = 1 - B + B * sum(counts.values()) / average
            total += rarity * counts[word] * (K1 + 1) / (counts[word] + K1 * length)
        return total

    ranked = sorted(((score(counts), text) for text, counts in passages), key=lambda pair: -pair[0])
    found = [text for points, text in ranked[:PARAGRAPHS] if points > 0]
    return "\n\n".join(found) or "Nothing found."


@cache
def read_folder(folder: str) -> tuple[list[tuple[str, Counter[str]]], Counter[str]]:
    """The paragraphs of a folder with their word counts, and in how many paragraphs each word occurs.

    Raises:
        FileNotFoundError: If the folder has no text.
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix in SUFFIXES)
    passages = []
    for file in files:
        for text in re.split(r"\n\s*\n", file.read_text(encoding="utf-8", errors="replace")):
            counts = Counter(words(text))
            if counts:
                passages.append((f"{file.name}: {text.strip()}", counts))
    if not passages:
        raise FileNotFoundError(f"SEARCH_FOLDER={folder}: no .md or .txt file with text")
    return passages, Counter(word for _, counts in passages for word in counts)


def words(text: str) -> list[str]:
    """Words in small letters; Chinese characters one by one."""
    return re.findall(r"[a-z0-9]+|[\u4e00-\u9fff]", text.lower())
