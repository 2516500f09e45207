"""Questions of benchmarks that stand in training data, found by n-grams of words.

Source: Brown et al., arXiv 2005.14165, appendix C: 13-grams, in lower case and without punctuation. Of Chinese each
character is a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

N = 13  # words
SHORTEST = 6  # a question with fewer words is found in too many texts to tell anything
HELD = 0.5  # a text with this share of a question's n-grams holds the question
COMMON = 3  # an n-gram of more questions than this is how they are asked, not what is asked
SHOWN = 5
WORD = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3400-\u9fff\uf900-\ufaff]+")

Key = tuple[str, int]  # set, number of the question


@dataclass
class SetOverlap:
    """One benchmark against the training data.

    Args:
        name: Of the set.
        questions: How many.
        short: Too short to tell.
        touched: Questions of which some n-gram stands in the data.
        held: Question -> the largest share of its n-grams in one row, and that row's place, from ``HELD`` on.
    """

    name: str
    questions: int
    short: int = 0
    touched: set[int] = field(default_factory=set)
    held: dict[int, tuple[float, Any]] = field(default_factory=dict)


class Contamination:
    """Looks for questions in texts.

    Args:
        sets: Name -> the questions' texts.
        n: Words of an n-gram.
    """

    def __init__(self, sets: Mapping[str, Sequence[str]], n: int = N):
        self.n = n
        self.overlaps = {name: SetOverlap(name, len(texts)) for name, texts in sets.items()}
        self.sizes: dict[Key, int] = {}
        self.where: dict[int, dict[int, list[Key]]] = defaultdict(lambda: defaultdict(list))  # length -> n-gram -> who
        for name, texts in sets.items():
            self._add(name, texts)
        self.firsts = {length: set(grams) for length, grams in self._first_words(sets).items()}

    def _add(self, name: str, texts: Sequence[str]) -> None:
        grams = [self._grams(text) for text in texts]
        often = Counter(gram for _, some in grams for gram in some)
        for number, (length, some) in enumerate(grams):
            own = {gram for gram in some if often[gram] <= COMMON}
            if not own:
                self.overlaps[name].short += 1
                continue
            self.sizes[name, number] = len(own)
            for gram in own:
                self.where[length][gram].append((name, number))

    def _grams(self, text: str) -> tuple[int, set[int]]:
        """Length and hashes of a question's n-grams; a question shorter than one is one."""
        found = words(text)
        if len(found) < SHORTEST:
            return 0, set()
        length = min(self.n, len(found))
        return length, {hash(gram) for gram in windows(found, length)}

    def _first_words(self, sets: Mapping[str, Sequence[str]]) -> dict[int, set[str]]:
        firsts: dict[int, set[str]] = defaultdict(set)
        for texts in sets.values():
            for text in texts:
                found = words(text)
                length = min(self.n, len(found))
                firsts[length].update(found[: len(found) - length + 1])
        return firsts

    def look(self, row: Any, place: Any) -> str | None:
        """Look through the texts of a row.

        Args:
            row: Anything with texts in it.
            place: Of the row, for the report.

        Returns:
            Which question it holds, in words; None when it holds none.
        """
        found: dict[Key, set[int]] = defaultdict(set)
        for text in texts_of(row):
            some = words(text)
            for length, grams in self.where.items():
                firsts = self.firsts[length]
                for start in range(len(some) - length + 1):
                    if some[start] in firsts:
                        gram = hash(tuple(some[start : start + length]))
                        for key in grams.get(gram, ()):
                            found[key].add(gram)
        held = None
        for (name, number), grams_found in found.items():
            overlap, share = self.overlaps[name], len(grams_found) / self.sizes[name, number]
            overlap.touched.add(number)
            if share >= HELD:
                if share > overlap.held.get(number, (0.0, None))[0]:
                    overlap.held[number] = share, place
                held = held or f"holds question {number + 1} of {name} ({share:.0%} of its {self.n}-grams)"
        return held


def words(text: str) -> list[str]:
    """The words of a text, without what is only writing."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def windows(some: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """All runs of so many words."""
    return (tuple(some[start : start + length]) for start in range(len(some) - length + 1))


def texts_of(value: Any) -> Iterator[str]:
    """The texts in a row, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_of(inner)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for inner in value:
            yield from texts_of(inner)


def show(found: Contamination, console: Console) -> None:
    """Print what was found."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("benchmark", "questions", "touched", "held", "too short"):
        table.add_column(name, justify="left" if name == "benchmark" else "right")
    for one in found.overlaps.values():
        counts = (one.questions, len(one.touched), len(one.held), one.short)
        table.add_row(one.name, *(f"{count:,}" for count in counts), style="red" if one.held else "")
    console.print(table)
    console.print(
        f"touched: some run of {found.n} words of the question stands in the data; held: at least {HELD:.0%} of its "
        "runs in one row",
        soft_wrap=True,
    )
    for one in found.overlaps.values():
        for number, (share, place) in sorted(one.held.items(), key=lambda item: -item[1][0])[:SHOWN]:
            console.print(f"  {escape(one.name)} question {number + 1}: row {escape(str(place))}, {share:.0%}")
