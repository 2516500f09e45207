"""Conversations as a chat template writes them, and which of their tokens the model learns: the one place for it.

A conversation is rendered once, as a whole; its ids are never put together from parts. What is learnt is found in that
text: of each assistant's turn the text behind what inference gives (header, perhaps ``<think>``) up to and with its
end token; the line break that a template writes behind that is never generated and not learnt. Three facts make this
hard: templates change earlier turns (Qwen3 drops their thoughts), end the last turn in another way (gpt-oss, Phi-3),
and let the next turn's mark end the answer (GLM).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from common.data.rows import loaded, loaded_tools
from common.data.token_mask import tokenized
from common.data.turns import PROBE, THOUGHT, Message, RenderError, Talk, said

THINKING = ("auto", "true", "false")
SIDES = ("chosen", "rejected")
SAMPLE = "\ue001"  # an answer that occurs in no text and is not `PROBE`
# <|im_end|>, <｜end▁of▁sentence｜>, </s>, <end_of_turn>, [/INST], [|endofturn|]; words between marks stay apart
MARK = re.compile(r"(<[|｜]?/?[^<>\s]{1,60}?[|｜]?>|\[/?[A-Z_]{2,}\]|\[\|[^\[\]\s]{1,60}\|\]|\n)")
SWITCHES = ("enable_thinking", "thinking")  # Qwen3, GLM, SmolLM3; DeepSeek-V3.1, Granite

Render = Callable[..., str]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Args:
        text: What the template writes.
        spans: Start and end in ``text`` of what is learnt of each assistant's turn that is learnt.
        endless: Assistant's turns that are learnt and have no end.
        lost: What the template leaves out of turns that are learnt, as ``common.data.turns`` names it.
    """

    text: str
    spans: list[tuple[int, int]]
    endless: int
    lost: frozenset[str] = frozenset()

    def tokens(self, tokenizer: Any) -> tuple[list[int], list[int]]:
        """Ids of the text and its loss mask (1: learnt), both of the shape (tokens,).

        Raises:
            RenderError: If the tokenizer cannot say which characters a token covers.
        """
        return tokenized(tokenizer, self.text, self.spans)


@dataclass(frozen=True)
class UsualEnd:
    """What a template writes behind a last answer; how many characters of it are learnt; whether they end the turn."""

    tail: str
    learnt: int
    ended: bool


def thinking_of(word: str | None) -> bool | None:
    """The knob THINKING as the template's switch; None (for null, or verl's "none") leaves it to the template."""
    return {"true": True, "false": False}.get(str(word).lower())


class Renderer:
    """Finds the assistant's tokens in whole conversations.

    Args:
        template: ``template(messages, tools=..., add_generation_prompt=..., **switches)`` gives the text; raises a
            jinja2 error or TypeError for what it cannot show.
        thinking: True or False set the template's switch; False leaves thoughts out of the messages too.
        special: The tokenizer's special tokens, which end turns though they look like no known mark.
        end_token: The tokenizer's end token; nothing behind it is learnt.
    """

    def __init__(
        self, template: Render, thinking: bool | None = None, special: Sequence[str] = (), end_token: str | None = None
    ):
        self.template, self.thinking, self.end_token = template, thinking, end_token
        self.special = tuple(token for token in special if token)

    @classmethod
    def of(cls, tokenizer: Any, thinking: bool | None = None, **options: Any) -> Renderer:
        """The renderer of a Hugging Face tokenizer; ``options`` go to its template."""
        for name in ("bos_token", "eos_token"):  # templates join them to texts; a tokenizer may have none
            if getattr(tokenizer, name, None) is None:
                options.setdefault(name, "")

        def template(messages: list[Message], **more: Any) -> str:
            return tokenizer.apply_chat_template(messages, tokenize=False, **{**options, **more})

        end_token = getattr(tokenizer, "eos_token", None)
        return cls(template, thinking, getattr(tokenizer, "all_special_tokens", ()), end_token)

    def text(self, messages: Any, tools: Any = None, answer_next: bool = False, thinking: bool | None = None) -> str:
        """A conversation as the model sees it.

        Raises:
            RenderError: If the template cannot show it.
        """
        thinking = self.thinking if thinking is None else thinking
        return self.write(self._messages(messages, thinking), loaded_tools(tools), answer_next, thinking)

    def prompt(self, messages: Any, tools: Any = None) -> str:
        """What the model sees when it is to answer.

        Raises:
            RenderError: If the template cannot show it, or leaves something of it out.
        """
        text, ready = self.text(messages, tools, answer_next=True), self._messages(messages, self.thinking)
        if any(message.get("tool_calls") or message["content"].strip() not in text for message in ready):
            Talk(self, ready, loaded_tools(tools), self.thinking).check_shown()
        return text

    def _messages(self, messages: Any, thinking: bool | None) -> list[Message]:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        made = []
        for number, message in enumerate(loaded(list(messages)), 1):
            kept = {key: value for key, value in message.items() if key != "weight"}
            if not isinstance(kept.setdefault("content", ""), str):
                raise RenderError(f"message {number} ({kept['role']}): its content is not text; only text is learnt")
            if thinking is False and kept["role"] == "assistant":
                kept.pop("reasoning_content", None)
                kept["content"] = THOUGHT.sub("", kept["content"])
            made.append(kept)
        return made

    def write(self, messages: list[Message], tools: Any, answer_next: bool, thinking: bool | None) -> str:
        """A conversation that is loaded already, as the template writes it; raises RenderError."""
        from jinja2 import TemplateError

        switches = {} if thinking is None else dict.fromkeys(SWITCHES, thinking)
        options = {"tools": tools, "add_generation_prompt": answer_next, **switches}
        try:
            return self.template(messages, **options)
        except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            if any(message.get("tool_calls") for message in messages) and isinstance(error, TypeError):
                try:  # DeepSeek-V3 and kin join the arguments to a text: they want them as JSON
                    return self.template([_arguments_as_text(message) for message in messages], **options)
                except (TemplateError, TypeError):
                    pass
            raise RenderError(f"the chat template cannot show it: {str(error) or type(error).__name__}") from error

    def render(self, messages: Any, tools: Any = None, thinking: bool | None = None) -> Rendered:
        """Render a whole conversation and find what is learnt.

        Args:
            messages: With the roles system, user, assistant, tool; ``weight`` 0 shows an assistant's turn without
                learning it.
            tools: Descriptions of tools, or JSON of them.
            thinking: Of this row; None for the renderer's own.

        Raises:
            RenderError: If the template cannot show it.
        """
        thinking = self.thinking if thinking is None else thinking
        weights = [message.get("weight") for message in messages]
        talk = Talk(self, self._messages(messages, thinking), loaded_tools(tools), thinking)
        talk.check_shown()
        spans, endless, lost = [], 0, set()
        for index, message in enumerate(talk.messages):
            if message["role"] == "assistant" and weights[index] != 0:
                start, end, ended = talk.turn(index)
                if ended:  # the line break behind an end token is never generated
                    end = start + len(talk.text[start:end].rstrip())
                endless += not ended
                lost |= talk.lost(index)
                if start < end:
                    spans.append((start, end))
        return Rendered(talk.text, spans, endless, frozenset(lost))

    def tokens(
        self, tokenizer: Any, messages: Any, tools: Any = None, thinking: bool | None = None
    ) -> tuple[list[int], list[int]]:
        """Ids of a whole conversation and its loss mask (1: learnt), both of the shape (tokens,).

        Raises:
            RenderError: If the template cannot show it.
        """
        return self.render(messages, tools, thinking).tokens(tokenizer)

    def marks(self, text: str) -> list[str]:
        """A text in pieces: marks, line breaks, and what is between them."""
        return [piece for piece in self._marks.split(text) if piece]

    def is_mark(self, piece: str) -> bool:
        """Whether a piece is a mark that can begin or end a turn."""
        return piece != "\n" and bool(self._marks.fullmatch(piece))

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        marks = {token for token in (*self.special, self._plain_end) if token.strip()}
        own = "|".join(re.escape(token) for token in sorted(marks, key=len, reverse=True))
        return re.compile(f"({own}|{MARK.pattern[1:]}") if own else MARK

    @cached_property
    def _plain_end(self) -> str:
        """What ends an assistant's turn where that looks like no mark (MiniMax: [e~[); empty where it does."""
        tail = (self._tail or "").strip()
        return "" if MARK.search(tail) else tail

    @cached_property
    def _tail(self) -> str | None:
        """What the template writes behind a last answer; None if it refuses the trial, as each row then says."""
        try:
            whole = self.write([said("user", "a"), said("assistant", PROBE)], None, False, self.thinking)
        except RenderError:
            return None
        return whole.rpartition(PROBE)[2]

    @cached_property
    def usual_end(self) -> UsualEnd | None:
        """How a last answer ends, where a short conversation shows it; saves three renderings of each row."""
        try:
            talk = Talk(self, [said("user", "a"), said("assistant", SAMPLE)], None, self.thinking)
            end, ended = talk.searched_end(1)
        except RenderError:
            return None
        at = talk.text.rfind(SAMPLE) + len(SAMPLE)
        return UsualEnd(talk.text[at:], end - at, ended) if SAMPLE in talk.text and end >= at else None

    @cached_property
    def has_end(self) -> bool:
        """Whether the template ends an assistant's turn with its own mark."""
        return self._tail is None or any(self.is_mark(piece) for piece in self.marks(self._tail))


def _arguments_as_text(message: Message) -> Message:
    import json

    calls = message.get("tool_calls")
    if not calls:
        return message
    made = []
    for call in calls:
        arguments = call["function"].get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        made.append({**call, "function": {**call["function"], "arguments": text}})
    return {**message, "tool_calls": made}


@dataclass(frozen=True)
class Side:
    """A prompt with one of its answers, up to the last token that is learnt.

    Args:
        ids: Tokens of both.
        mask: 1 for those that are learnt: of an answer with tool calls not their results.
        rendered: The text that they are the tokens of.
    """

    ids: list[int]
    mask: list[int]
    rendered: Rendered | None = field(default=None, compare=False, repr=False)

    @property
    def prompt(self) -> list[int]:
        """The tokens before the answer."""
        return self.ids[: self.mask.index(1)]

    @property
    def answer(self) -> list[int]:
        """The tokens from the first that is learnt on."""
        return self.ids[self.mask.index(1) :]


def pair_tokens(renderer: Renderer, tokenizer: Any, row: dict[str, Any], tools: Any = None) -> tuple[Side, Side]:
    """A preference pair: its prompt with the chosen and with the rejected answer.

    The prompts are equal but where the template opens the two answers differently, one of them with a thought.

    Args:
        renderer: Of the model's template.
        tokenizer: Of the model.
        row: With ``prompt``, ``chosen`` and ``rejected``: texts or messages; and perhaps ``tools``.
        tools: Instead of the row's.

    Raises:
        RenderError: If the template cannot show it.
    """
    return tuple(answer_tokens(renderer, tokenizer, row, side, tools) for side in SIDES)


def answer_tokens(renderer: Renderer, tokenizer: Any, row: dict[str, Any], name: str, tools: Any = None) -> Side:
    """The prompt of a row with one of its answers.

    Args:
        renderer: Of the model's template.
        tokenizer: Of the model.
        row: With ``prompt`` and the answer: texts or messages; and perhaps ``tools``.
        name: Column of the answer.
        tools: Instead of the row's.

    Raises:
        RenderError: If the template cannot show it.
    """
    prompt = [{**message, "weight": 0} for message in as_messages(row["prompt"], "user")]
    rendered = renderer.render([*prompt, *as_messages(row[name], "assistant")], tools or row.get("tools"))
    ids, mask = rendered.tokens(tokenizer)
    if 1 not in mask:
        raise RenderError(f"{name}: the chat template leaves nothing of it to learn")
    end = len(mask) - mask[::-1].index(1)  # the line break behind an end token is never generated
    return Side(ids[:end], mask[:end], rendered)


def answers_of(algorithm: str, row: dict[str, Any]) -> tuple[str, ...]:
    """Columns of a row's answers that are learnt from: two of a pair, one of a marked answer; none of a prompt."""
    pair = bool(row.get("chosen")) and bool(row.get("rejected"))
    if algorithm == "dpo" or (algorithm in ("gspo", "kto") and pair):
        return SIDES
    return ("completion",) if algorithm == "kto" else ()


def as_messages(value: Any, role: str) -> list[Message]:
    """A text as one message, messages as they were before parquet."""
    return [said(role, value)] if isinstance(value, str) else loaded(list(value))
