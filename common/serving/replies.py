"""The JSON of OpenAI's API: whole answers, pieces of streamed ones, errors."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.serving.wanted import Refused, Wanted
from common.serving.worker import Piece, Token

Decode = Callable[[list[int]], str]


@dataclass
class Reply:
    """Makes the objects of one request.

    Args:
        wanted: The request.
        decode: Token ids to text, special tokens included.
    """

    wanted: Wanted
    decode: Decode
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = ""
    offsets: dict[int, int] = field(default_factory=dict)  # of a streamed choice, characters so far

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.wanted.is_chat else "cmpl-") + secrets.token_hex(12)

    def whole(self, answers: Sequence[Piece], prompt_tokens: int) -> dict[str, Any]:
        """All choices of a request that is not streamed."""
        choices = []
        for index, answer in enumerate(answers):
            content = (
                {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
                if self.wanted.is_chat
                else {"text": answer.text}
            )
            choices.append({"index": index, **content, **self._ends(index, answer)})
        kind = "chat.completion" if self.wanted.is_chat else "text_completion"
        usage = usage_of(prompt_tokens, sum(len(answer.tokens) for answer in answers))
        return {**self._head(kind), "choices": choices, "usage": usage}

    def first(self, index: int) -> dict[str, Any]:
        """The piece that says whose turn it is; of a chat only."""
        choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice | {"finish_reason": None}]}

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        """A piece of one choice."""
        is_chat = self.wanted.is_chat
        content = {"delta": {"content": piece.text} if piece.text else {}} if is_chat else {"text": piece.text}
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        return {**self._head(kind), "choices": [{"index": index, **content, **self._ends(index, piece)}]}

    def last(self, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        """The counts, after all pieces."""
        kind = "chat.completion.chunk" if self.wanted.is_chat else "text_completion"
        return {**self._head(kind), "choices": [], "usage": usage_of(prompt_tokens, tokens)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.wanted.model}

    def _ends(self, index: int, piece: Piece) -> dict[str, Any]:
        return {"logprobs": self._logprobs(index, piece.tokens), "finish_reason": piece.finish}

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.wanted.top is None:
            return None
        if self.wanted.is_chat:
            content = []
            for token in tokens:
                top = [self._entry(*one) for one in token.top]
                content.append({**self._entry(token.id, token.log_prob), "top_logprobs": top})
            return {"content": content, "refusal": None}
        texts = [self.decode([token.id]) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self.offsets.get(index, 0))
            self.offsets[index] = offsets[-1] + len(text)
        return {
            "tokens": texts,
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": [self._top_of(token) for token in tokens] if self.wanted.top else None,
            "text_offset": offsets,
        }

    def _top_of(self, token: Token) -> dict[str, float]:
        """The most likely tokens and the one taken, by text; of two with one text the likelier counts."""
        found: dict[str, float] = {}
        for number, value in [*token.top, (token.id, token.log_prob)]:
            found.setdefault(self.decode([number]), value)
        return found

    def _entry(self, token_id: int, log_prob: float) -> dict[str, Any]:
        text = self.decode([token_id])
        return {"token": text, "logprob": log_prob, "bytes": list(text.encode("utf-8", "replace"))}


def usage_of(prompt_tokens: int, tokens: int) -> dict[str, int]:
    """Counts of a request."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
    }


def error_body(refused: Refused) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    return {"error": {"message": str(refused), "type": kind, "param": refused.param, "code": refused.code}}
