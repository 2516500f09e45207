"""Patterns that look through foreign text take time in proportion to its length, whatever was written to slow them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest

from common import console
from common.answers import final
from common.runner import failures, known_failures, terminal
from monitor import log_parser, log_tail

SIZE = 6_000  # characters; the quadratic ones took 40 to 900 ms for them
LIMIT_S = 0.02
# What an attack repeats, behind what: openings, words, digits, spaces, and halves of each pattern's own marks.
UNITS = (
    "a",
    "1",
    " ",
    "\n",
    " \n",
    "A ",
    "a ",
    "a1",
    "1 ",
    ".",
    "(",
    "'",
    '"',
    "[",
    "{",
    "<",
    ":",
    "=",
    "|",
    "*",
    "#",
    "%",
)
BEGINNINGS = ("", "step:1 - a:", "Step 1 | ", "Step 1 | a", "Step 1: a=1 [", "{'loss': ", "for ", 'No"', "x: 5%|")
MARKS = (
    "tensor(", "array(", "tensor(a", "np.float64(", "np.a", "step:1", "step", "epoch ", "Step 1: ", "'a': 1", "ray::",
    "ray::a (pid", "(TaskRunner pid=1", "[rank0]:", "Traceback (most", "SafetensorError: ", "train_batch_size ",
    "mini_batch_size ", "/dev/shm", "No space left on device", "max_lora_rank", "DataLoader worker ", "\x1b[", "\x1b[1",
    "Total training steps: ", "answer ", "answer for ", "because", "the answer is ", "**", "``", "$\\", "\\(", "\\[",
    "AError", "Warning", "found latest checkpoint: ", "Found latest checkpoint: /", "No such file or directory: 'a.",
)  # fmt: skip


def attacks(size: int) -> Iterator[str]:
    for beginning in BEGINNINGS:
        for unit in (*UNITS, *MARKS):
            yield beginning + unit * (size // len(unit)) + "\0"
    for mark in MARKS:
        for unit in UNITS:
            yield mark + unit * (size // len(unit)) + "\0"


def patterns_of(*modules: object) -> dict[str, re.Pattern]:
    found = {}
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                found[f"{module.__name__}.{name}"] = value
    return found


# `final` looks for what is said in the last LONGEST characters only; `_DRESSES` take a whole text or nothing.
LINES = patterns_of(failures, console, terminal, log_parser, log_tail) | {
    f"known {number}": re.compile(known.pattern) for number, known in enumerate(known_failures.KNOWN_FAILURES)
}
ANSWERS = {f"final.{name}": getattr(final, name) for name in ("_SAID", "_SENTENCE_END", "_TAG_END", "_BOX", "_HEADING")}


def slow(search: Callable[[str], object], size: int) -> dict[str, float]:
    """The first attack that takes more than the limit twice, and more than 2.8 times as long as half of it."""
    for attack in attacks(size):
        if timed(search, attack) < LIMIT_S:
            continue
        again = min(timed(search, attack), timed(search, attack))
        half = min(timed(search, attack[: size // 2]), timed(search, attack[: size // 2]))
        if again > LIMIT_S and again > 2.8 * half:
            return {attack[:40]: again}
    return {}


def timed(search: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    search(text)
    return time.process_time() - start


@pytest.mark.parametrize("name", sorted(LINES))
def test_a_pattern_over_log_lines(name):
    pattern = LINES[name]
    size = (
        failures.LONGEST_LINE if pattern.pattern in {known.pattern for known in known_failures.KNOWN_FAILURES} else SIZE
    )
    search = pattern.search
    assert not slow((lambda text: search(text.encode())) if isinstance(pattern.pattern, bytes) else search, size)


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_a_pattern_over_answers(name):
    assert not slow(ANSWERS[name].search, SIZE)


def test_the_parser_and_the_diagnosis_as_a_whole():
    assert not slow(lambda text: log_parser.LogParser().feed(text.encode()), SIZE)
    assert not slow(lambda text: failures.diagnose(f"# attempt 1\nTraceback (most recent call last):\n{text}\n"), SIZE)


def test_the_measure_finds_a_pattern_that_is_not_linear():
    assert slow(re.compile(r"\s+$").search, SIZE)
    assert slow(re.compile(r"[A-Za-z_]+\s*:").search, SIZE)


def test_a_number_or_a_name_without_end_is_no_metric():
    parse = log_parser.LogParser().feed
    assert parse(b"step:1 - a:" + b"1" * 80_000 + b"x - b:2") == [(1, {"b": 2})]
    assert parse(b"Step 1 | " + b"a" * 300 + b": 3 | loss: 2") == [(1, {"loss": 2})]
    assert parse(b"step:1 - " + b"a - " * 100_000 + b"x:1 - b:2") == [(1, {"b": 2})]
