"""One model in a thread that answers the requests that wait, a batch at a time.

A batch runs to its end; what arrives meanwhile is the next one. An answer that nobody waits for any more leaves it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from common.evaluation.engines.engine import Pieces, cut_at_stop
from common.evaluation.engines.transformers_engine import (
    MAX_ROWS,
    MEMORY_SHARE,
    ROWS_BEFORE_SHARE,
    free_memory,
    is_out_of_memory,
    load,
    load_tokenizer,
    release_memory,
    rows_that_fit,
)
from common.evaluation.model_path import ModelSource
from common.hf_engine.end_tokens import end_ids
from common.hf_engine.generation import Request, cache_bytes_per_token, generate
from common.serving.wanted import Refused

logger = logging.getLogger(__name__)

QUIET_S = 0.01  # a batch starts when nothing arrived for this long
GATHER_S = 0.1  # or when its first request has waited this long
MOST_WAITING = 4096
GONE = "the thread that answers has ended, the server's log says why; restart the server"


@dataclass(slots=True)
class Token:
    """One generated token.

    Args:
        id: Of the vocabulary.
        log_prob: Natural logarithm of its probability, before temperature, top-k and top-p.
        top: The most likely tokens of its place with theirs.
    """

    id: int
    log_prob: float
    top: list[tuple[int, float]]


@dataclass(slots=True)
class Piece:
    """A part of an answer.

    Args:
        text: New text, without special tokens and never beyond a stop text.
        tokens: New tokens.
        finish: ``stop`` or ``length`` at the end, else None.
        error: Why the answer ends without one, else None.
    """

    text: str
    tokens: list[Token]
    finish: str | None = None
    error: str | None = None


@dataclass
class Generation(Request):
    """An answer that is being made; the worker's thread calls ``emit``.

    Args:
        stop: Texts that end it.
        decode: Token ids to text.
        emit: Gets the pieces; of an answer that is not streamed there is one.
        stream: Emit text as soon as it is sure.
    """

    stop: tuple[str, ...] = ()
    decode: Callable[[list[int]], str] = str
    emit: Callable[[Piece], None] = print
    stream: bool = False
    emitted: int = 0
    new_text: list[str] = field(default_factory=list)
    pieces: Pieces | None = None
    stop_window: int = 0

    def __post_init__(self) -> None:
        self.pieces = Pieces(self.decode, self.stop, self.new_text.append)
        self.stop_window = 8 + max((len(end) for end in self.stop), default=0)

    def add(self, token_id: int, log_prob: float) -> None:
        """Append a token, look for a stop text, emit what is new."""
        super().add(token_id, log_prob)
        if self.stop and not self.finished:
            self.finished = cut_at_stop(self.decode(self.token_ids[-self.stop_window :]), self.stop)[1]
        if self.stream or self.finished:
            self.pieces.update(self.decode(self.token_ids), last=self.finished)
        if self.finished or (self.stream and self.new_text):
            self._emit()

    def _emit(self) -> None:
        places = range(self.emitted, len(self.token_ids))
        tops = self.tops if self.top else [[]] * len(self.token_ids)
        tokens = [Token(self.token_ids[place], self.log_probs[place], tops[place]) for place in places]
        self.emitted = len(self.token_ids)
        text = "".join(self.new_text)
        self.new_text.clear()
        self.emit(Piece(text, tokens, self._finish() if self.finished else None))

    def _finish(self) -> str:
        cut = cut_at_stop(self.decode(self.token_ids), self.stop)[1]
        return "stop" if cut or self.token_ids[-1] in self.stop_ids else "length"

    def fail(self, words: str) -> None:
        """End it with an error."""
        self.emit(Piece("", [], None, words))


class Worker:
    """Loads a model and answers.

    Args:
        name: Under which it is served.
        source: The model; a LoRA adapter is folded into it in memory.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: As for ``test.sh``: auto is float32 on a CPU.
        batch_tokens: Tokens of a batch, prompts and answers; None: what memory allows.

    Raises:
        EvaluationError: If it cannot be loaded.
    """

    def __init__(self, name: str, source: ModelSource, device: str, dtype: str, batch_tokens: int | None = None):
        self.name, self.source, self.batch_tokens = name, source, batch_tokens
        self.tokenizer = load_tokenizer(source, False)
        self.model = load(source, device, dtype, False)
        self.stop_ids = end_ids(self.model.generation_config, self.tokenizer)
        pad = self.tokenizer.pad_token_id
        self.pad = pad if pad is not None else min(self.stop_ids, default=0)
        self.waiting: list[Generation] = []
        self.running = 0
        self.ended = False
        self.arrived = 0.0
        self.wake = threading.Condition()
        self.thread = threading.Thread(target=self._work, daemon=True, name=f"worker {name}")
        self.thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return self.thread.is_alive()

    def submit(self, generation: Generation) -> None:
        """Put an answer on the list.

        Raises:
            Refused: If too many wait, or the thread has ended.
        """
        with self.wake:
            if self.ended or not self.alive:
                raise Refused(f"{self.name}: {GONE}", status=503, code="unavailable")
            if len(self.waiting) >= MOST_WAITING:
                raise Refused(f"{MOST_WAITING} requests wait; try again later", status=503, code="overloaded")
            self.waiting.append(generation)
            self.arrived = time.monotonic()
            self.wake.notify()

    def decode(self, ids: list[int]) -> str:
        """Text of token ids without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _work(self) -> None:
        try:
            self._answer()
        finally:
            with self.wake:
                self.ended, left, self.waiting = True, self.waiting, []
            for one in left:
                one.fail(f"{self.name}: {GONE}")

    def _answer(self) -> None:
        while True:
            batch = self._next_batch()
            try:
                generate(self.model, batch, self.pad, raw_logprobs=True)
            except Exception as error:  # of whatever kind: those who wait are told, and the next batch may do
                self._fail(batch, error)
            finally:
                self.running = 0

    def _next_batch(self) -> list[Generation]:
        with self.wake:
            while not self.waiting:
                self.wake.wait()
        first = time.monotonic()
        while (now := time.monotonic()) - self.arrived < QUIET_S and now - first < GATHER_S:
            time.sleep(QUIET_S / 5)
        with self.wake:
            self.waiting = [one for one in self.waiting if not one.aborted.is_set()]
            size = rows_that_fit(self.waiting, self._budget(), ROWS_BEFORE_SHARE.get(self.model.device.type, MAX_ROWS))
            batch, self.waiting = self.waiting[:size], self.waiting[size:]
            self.running = len(batch)
        return batch

    def _budget(self) -> int:
        free = free_memory(self.model.device)
        return self.batch_tokens or max(1, int(free * MEMORY_SHARE / cache_bytes_per_token(self.model)))

    def _fail(self, batch: list[Generation], error: Exception) -> None:
        words = f"{type(error).__name__}: {error}"
        if is_out_of_memory(error):
            release_memory()
            rows = len(batch)
            total = max(len(one.prompt_ids) + one.max_tokens for one in batch)
            words = f"memory does not suffice for this request even alone: {total} tokens with the answer; ask for less"
            if rows > 1:
                self.batch_tokens = max(total, rows * total // 2)
                words = "memory did not suffice; batches are smaller from now on, ask again"
        logger.error("%s: %s", self.name, words, exc_info=None if is_out_of_memory(error) else error)
        for one in batch:
            if one.running:
                one.fail(words)
