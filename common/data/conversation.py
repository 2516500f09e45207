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
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from common.data.rows import loaded, loaded_tools

THINKING = ("auto", "true", "false")
PROBE = "\ue000"  # stands in no text: where two renderings that differ by it only meet again, a content has ended
# <|im_end|>, <｜end▁of▁sentence｜>, </s>, <end_of_turn>, [/INST]; words between a mark's pieces stay apart
MARK = re.compile(r"(<[|｜]?/?[^<>\s]{1,60}?[|｜]?>|\[/?[A-Z_]{2,}\]|\n)")
THOUGHT = re.compile(r"^\s*<think>.*?</think>\s*", re.DOTALL)
SWITCHES = ("enable_thinking", "thinking")  # Qwen3, GLM, SmolLM3; DeepSeek-V3.1, Granite

Message = dict[str, Any]
Render = Callable[..., str]


class RenderError(ValueError):
    """A conversation that the chat template cannot show; the message says what it said."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Args:
        text: What the template writes.
        spans: Start and end in ``text`` of what is learnt of each assistant's turn that is learnt.
        endless: Assistant's turns that are learnt and have no end.
    """

    text: str
    spans: list[tuple[int, int]]
    endless: int


def thinking_of(word: str | None) -> bool | None:
    """The value of the knob THINKING as the template's switch; None leaves it to the template."""
    return {"true": True, "false": False}.get(str(word).lower())


class Renderer:
    """Finds the assistant's tokens in whole conversations.

    Args:
        template: ``template(messages, tools=..., add_generation_prompt=..., **switches)`` gives the text; raises a
            jinja2 error or TypeError for what it cannot show.
        thinking: True or False set the template's switch; False leaves thoughts out of the messages too.
        special: The tokenizer's special tokens, which end turns though they look like no known mark.
    """

    def __init__(self, template: Render, thinking: bool | None = None, special: Sequence[str] = ()):
        self.template, self.thinking, self.special = template, thinking, tuple(token for token in special if token)

    @classmethod
    def of(cls, tokenizer: Any, thinking: bool | None = None, **options: Any) -> Renderer:
        """The renderer of a Hugging Face tokenizer; ``options`` go to its template."""
        for name in ("bos_token", "eos_token"):  # templates join them to texts; a tokenizer may have none
            if getattr(tokenizer, name, None) is None:
                options.setdefault(name, "")

        def template(messages: list[Message], **more: Any) -> str:
            return tokenizer.apply_chat_template(messages, tokenize=False, **{**options, **more})

        return cls(template, thinking, getattr(tokenizer, "all_special_tokens", ()))

    def text(self, messages: Any, tools: Any = None, answer_next: bool = False, thinking: bool | None = None) -> str:
        """A conversation as the model sees it.

        Raises:
            RenderError: If the template cannot show it.
        """
        thinking = self.thinking if thinking is None else thinking
        return self._text(self._messages(messages, thinking), loaded_tools(tools), answer_next, thinking)

    def _messages(self, messages: Any, thinking: bool | None) -> list[Message]:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        made = []
        for message in loaded(list(messages)):
            kept = {key: value for key, value in message.items() if key != "weight"}
            kept.setdefault("content", "")
            if thinking is False and kept["role"] == "assistant":
                kept.pop("reasoning_content", None)
                kept["content"] = THOUGHT.sub("", kept["content"])
            made.append(kept)
        return made

    def _text(self, messages: list[Message], tools: Any, answer_next: bool, thinking: bool | None) -> str:
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
        talk = _Talk(self, self._messages(messages, thinking), loaded_tools(tools), thinking)
        talk.check_shown()
        spans, endless = [], 0
        for index, message in enumerate(talk.messages):
            if message["role"] == "assistant" and weights[index] != 0:
                start, end, ended = talk.turn(index)
                if ended:  # the line break behind an end token is never generated
                    end = start + len(talk.text[start:end].rstrip())
                endless += not ended
                if start < end:
                    spans.append((start, end))
        return Rendered(talk.text, spans, endless)

    def tokens(
        self, tokenizer: Any, messages: Any, tools: Any = None, thinking: bool | None = None
    ) -> tuple[list[int], list[int]]:
        """Ids of a whole conversation and its loss mask (1: learnt), both of the shape (tokens,).

        Raises:
            RenderError: If the template cannot show it.
        """
        return tokenized(tokenizer, self.render(messages, tools, thinking))

    def marks(self, text: str) -> list[str]:
        """A text in pieces: marks, line breaks, and what stands between them."""
        return [piece for piece in self._marks.split(text) if piece]

    def is_mark(self, piece: str) -> bool:
        """Whether a piece is a mark that can begin or end a turn."""
        return piece != "\n" and bool(self._marks.fullmatch(piece))

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        own = "|".join(re.escape(token) for token in sorted(self.special, key=len, reverse=True) if token.strip())
        return re.compile(f"({own}|{MARK.pattern[1:]}") if own else MARK

    @cached_property
    def has_end(self) -> bool:
        """Whether the template ends an assistant's turn with a mark of its own."""
        try:
            whole = self._text([_said("user", "a"), _said("assistant", PROBE)], None, False, self.thinking)
        except RenderError:
            return True  # each row says why
        tail = whole.rpartition(PROBE)[2]
        return any(self.is_mark(piece) for piece in self.marks(tail))


class _Talk:
    """One conversation, its whole text, and renderings of parts of it (each made once)."""

    def __init__(self, renderer: Renderer, messages: list[Message], tools: Any, thinking: bool | None):
        self.renderer, self.messages, self.tools, self.thinking = renderer, messages, tools, thinking
        self.text = self._render(messages)

    def _render(self, messages: list[Message], answer_next: bool = False, thinking: bool | None = None) -> str:
        thinking = self.thinking if thinking is None else thinking
        return self.renderer._text(messages, self.tools, answer_next, thinking)

    def check_shown(self) -> None:
        """Raise if the template leaves something out that the answers rest on: words, tool calls, tool results."""
        for number, message in enumerate(self.messages, 1):
            lost = ""
            if message["role"] != "assistant" and message["content"].strip() not in self.text:
                changed = [*self.messages[: number - 1], _changed(message), *self.messages[number:]]
                lost = "text" if self._try(changed) == self.text else ""
            elif message.get("tool_calls"):
                changed = [*self.messages[: number - 1], _renamed(message), *self.messages[number:]]
                lost = "tool call" if self._try(changed) == self.text else ""
            if lost:
                raise RenderError(
                    f"the chat template leaves out the {lost} of message {number} ({message['role']}); use a model "
                    "whose template shows it, or leave such rows out"
                )

    def _try(self, messages: list[Message], answer_next: bool = False, thinking: bool | None = None) -> str | None:
        try:
            return self._render(messages, answer_next, thinking)
        except RenderError:
            return None

    def turn(self, index: int) -> tuple[int, int, bool]:
        """Start and end of what is learnt of the assistant's turn ``index``, and whether an end is in it."""
        start = self._start(index)
        end, ended = self._end(index)
        return start, max(start, end), ended

    def _start(self, index: int) -> int:
        prompt = self._try(self.messages[:index], answer_next=True)
        if prompt and self.text.startswith(prompt):
            return len(prompt)
        # An answer without a thought may begin as inference with thinking off does (Nemotron: <think></think>).
        if self.thinking is None and (bare := self._try(self.messages[:index], answer_next=True, thinking=False)):
            if self.text.startswith(bare):
                return len(bare)
        variable = self._variable_start(index)
        if prompt is None or index == 0:
            return variable
        # An earlier turn is written differently, or the answer begins otherwise than inference would begin it:
        # compare from the end of the message before.
        before = self._content_end(self.messages, index - 1, self.text)
        before_prompt = self._content_end(self.messages[:index], index - 1, prompt, answer_next=True)
        if before is None or before_prompt is None:
            return variable
        given, there = prompt[before_prompt:], self.text[before:]
        if there.startswith(given):
            return before + len(given)
        return min(variable, before + len(self._common(given, there)))

    def _variable_start(self, index: int) -> int:
        """Where the text begins to depend on what the assistant says in this turn."""
        other = _changed(self.messages[index])
        if other.get("reasoning_content"):
            other["reasoning_content"] = PROBE
        bare = {"role": "assistant", "content": PROBE}
        texts = [self._try([*self.messages[:index], one, *self.messages[index + 1 :]]) for one in (other, bare)]
        return min((_common_prefix(self.text, text) for text in texts if text), default=0)

    def _content_end(self, messages: list[Message], index: int, text: str, answer_next: bool = False) -> int | None:
        """Where in ``text`` the last thing that message ``index`` says has ended."""
        changed = [*messages[:index], _changed(messages[index]), *messages[index + 1 :]]
        other = self._try(changed, answer_next)
        return None if other is None else len(text) - _common_suffix(text, other)

    def _end(self, index: int) -> tuple[int, bool]:
        last = index == len(self.messages) - 1
        alone = [*self.messages, _said("user", "a")] if last else self.messages[: index + 1]
        other = self._try(alone)
        content_end = self._content_end(self.messages, index, self.text)
        if content_end is None:
            content_end = len(self.text) if last or other is None else _common_prefix(self.text, other)
        tail = self.text[content_end:]
        shared = tail
        if other is not None:
            other_end = self._content_end(alone, index, other)
            shared = self._common(tail, other[other_end:]) if other_end is not None else ""
        elif not last:
            shared = ""
        if self.renderer.has_end:
            pieces = self.renderer.marks(shared)
            if not any(self.renderer.is_mark(piece) for piece in pieces):  # gpt-oss: the last turn ends in its own way
                shared = self._to_first_mark(tail)
            return content_end + len(shared), bool(shared.strip())
        # No end of its own: inference stops at the mark that begins the next turn, where there is one.
        gap = tail[len(shared) :] if not last else ""
        pieces = self.renderer.marks(gap)
        lead = "".join(piece for piece in pieces[:1] if piece.isspace())
        mark = next((piece for piece in pieces if not piece.isspace()), "")
        if mark and self.renderer.is_mark(mark):
            return content_end + len(shared) + len(lead) + len(mark), True
        return content_end + len(shared), False

    def _to_first_mark(self, tail: str) -> str:
        made = ""
        for piece in self.renderer.marks(tail):
            made += piece
            if self.renderer.is_mark(piece):
                return made
        return ""

    def _common(self, one: str, two: str) -> str:
        made = ""
        for left, right in zip(self.renderer.marks(one), self.renderer.marks(two), strict=False):
            if left != right:
                if left.isspace() or right.isspace():
                    break
                shorter = min(left, right, key=len)  # a text that goes on is no mark
                if not self.renderer.is_mark(left) and not self.renderer.is_mark(right) and left.startswith(shorter):
                    made += shorter if right.startswith(shorter) else ""
                break
            made += left
        return made


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _changed(message: Message) -> Message:
    """A message that says something else at its end, and is of the same kind."""
    made = dict(message)
    if made.get("tool_calls"):
        *calls, call = made["tool_calls"]
        function = {**call["function"], "arguments": {PROBE: PROBE}}
        made["tool_calls"] = [*calls, {**call, "function": function}]
        return made
    made["content"] = PROBE
    return made


def _renamed(message: Message) -> Message:
    """A message that calls other functions."""
    calls = message["tool_calls"]
    made = [{**call, "function": {**call["function"], "name": call["function"]["name"] + PROBE}} for call in calls]
    return {**message, "tool_calls": made}


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


def _common_prefix(one: str, two: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def _common_suffix(one: str, two: str) -> int:
    return _common_prefix(one[::-1], two[::-1])


def token_mask(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[int]:
    """1 for each token that holds a character of a span, else 0.

    Args:
        offsets: Start and end of each token in the text.
        spans: In rising order.
    """
    mask, at = [], 0
    for start, end in offsets:
        while at < len(spans) and spans[at][1] <= start:
            at += 1
        mask.append(int(at < len(spans) and end > spans[at][0] and end > start))
    return mask


def tokenized(tokenizer: Any, rendered: Rendered) -> tuple[list[int], list[int]]:
    """Ids of a whole conversation and its loss mask (1: learnt), both of the shape (tokens,).

    Raises:
        RenderError: If the tokenizer cannot say which characters a token stands for.
    """
    if not getattr(tokenizer, "is_fast", False):
        return _by_pieces(tokenizer, rendered)
    found = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
    return list(found["input_ids"]), token_mask(found["offset_mapping"], rendered.spans)


def _by_pieces(tokenizer: Any, rendered: Rendered) -> tuple[list[int], list[int]]:
    ids, mask, at = [], [], 0
    for start, end in [*rendered.spans, (len(rendered.text), len(rendered.text))]:
        for text, learnt in ((rendered.text[at:start], 0), (rendered.text[start:end], 1)):
            piece = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            ids += piece
            mask += [learnt] * len(piece)
        at = end
    if ids != tokenizer(rendered.text, add_special_tokens=False)["input_ids"]:
        raise RenderError("the tokenizer is a slow one, without offsets, and splits the answers otherwise; convert it")
    return ids, mask
