"""What every engine is asked and answers, whichever library does the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from common.data.messages import Message

Deliver = Callable[["Answer"], None]


@dataclass(slots=True)
class Ask:
    """One answer to be generated.

    Args:
        row: Number of the question, from 0.
        sample: Number of the answer to it, from 0.
        prompt_ids: Token ids of the prompt; empty for a server, which has its own template.
        messages: The conversation, for a server.
        max_tokens: Tokens to generate at most.
        seed: Of this answer alone.
    """

    row: int
    sample: int
    prompt_ids: list[int]
    messages: list[Message] = field(default_factory=list)
    max_tokens: int = 512
    seed: int = 0


@dataclass(slots=True)
class Answer:
    """What came back.

    Args:
        row: Number of the question.
        sample: Number of the answer to it.
        text: The answer without special tokens, cut before a stop text.
        tokens: Generated tokens, the end token included.
        prompt_tokens: Tokens of the prompt.
        finish: ``stop``, ``length`` or ``error``.
        error: Why there is no answer, or None.
    """

    row: int
    sample: int
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    finish: str = "stop"
    error: str | None = None


@dataclass
class Meter:
    """Counts what is generated, for the progress bar; time starts with the first token.

    Args:
        tokens: Generated so far, unfinished answers included.
        started: When generation began, seconds of ``time.monotonic``; None before.
    """

    tokens: int = 0
    started: float | None = None

    def start(self) -> None:
        """Note the time, once."""
        if self.started is None:
            self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since generation began."""
        return 0.0 if self.started is None else time.monotonic() - self.started


class Engine(Protocol):
    """Generates answers.

    Attributes:
        name: ``transformers``, ``vllm``, ``sglang`` or ``server``.
        version: Of the library.
        meter: Tokens so far.
    """

    name: str
    version: str
    meter: Meter

    def answer(self, asks: Sequence[Ask], deliver: Deliver) -> None:
        """Answer all; ``deliver`` gets each answer as soon as it is complete, in any order."""

    def stream(self, ask: Ask, show: Callable[[str], None], stopped: Any) -> Answer:
        """Answer one; ``show`` gets the text piece by piece. Ends early when the event ``stopped`` is set."""

    def close(self) -> None:
        """Give back what it holds."""


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Return a text up to the first stop text, and whether there was one."""
    places = [place for place in (text.find(end) for end in stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


class Pieces:
    """Turns a growing list of token ids into pieces of text that can be shown.

    A character of Chinese may need several tokens, and a stop text may come in several; what is not yet sure is kept
    back.

    Args:
        decode: Token ids to text.
        stop: Stop texts.
        show: Gets the pieces.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str], show: Callable[[str], None]):
        self.decode, self.stop, self.show = decode, stop, show
        self.shown = 0

    def update(self, text: str, last: bool = False) -> None:
        """Show what is new and sure of the whole text so far."""
        text, ended = cut_at_stop(text, self.stop)
        sure = len(text)
        if not last and not ended:
            sure = len(text.rstrip("\ufffd"))
            sure -= max((_overlap(text[:sure], end) for end in self.stop), default=0)
        if sure > self.shown:
            self.show(text[self.shown : sure])
            self.shown = sure


def _overlap(text: str, end: str) -> int:
    """Length of the longest beginning of ``end`` that ``text`` ends with."""
    return next((size for size in range(min(len(end) - 1, len(text)), 0, -1) if text.endswith(end[:size])), 0)
