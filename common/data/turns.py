"""Where in a whole rendering each assistant's turn begins and ends, found by what changes with its words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.data.conversation import Renderer

PROBE = "\ue000"  # occurs in no text: where two renderings that differ by it only meet again, a content has ended

THOUGHT = re.compile(r"^\s*<think>(.*?)</think>\s*", re.DOTALL)

# What a template may leave out of an assistant's turn (`Talk.lost`).
EARLIER_THOUGHT = "thoughts of earlier turns"  # as at inference, where most templates drop them
LAST_THOUGHT = "thoughts of the last turn"
BESIDE_CALL = "text next to a tool call"
ANSWER = "text of an answer"

Message = dict[str, Any]


class RenderError(ValueError):
    """A conversation that the chat template cannot show; the message says what it said."""


class Talk:
    """One conversation, its whole text, and renderings of parts of it (each made once)."""

    def __init__(self, renderer: Renderer, messages: list[Message], tools: Any, thinking: bool | None):
        self.renderer, self.messages, self.tools, self.thinking = renderer, messages, tools, thinking
        self.text = self._render(messages)

    def _render(self, messages: list[Message], answer_next: bool = False, thinking: bool | None = None) -> str:
        thinking = self.thinking if thinking is None else thinking
        return self.renderer.write(messages, self.tools, answer_next, thinking)

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

    def lost(self, index: int) -> set[str]:
        """What the template silently leaves out of the assistant's turn ``index``, so that it is not learnt."""
        message, found = self.messages[index], set()
        thought, content = (message.get("reasoning_content") or "").strip(), message["content"]
        inside = THOUGHT.match(content)
        answer = THOUGHT.sub("", content).strip()
        if (thought and thought not in self.text) or (inside and inside.group(1).strip() not in self.text):
            later = any(one["role"] == "user" for one in self.messages[index:])
            found.add(EARLIER_THOUGHT if later else LAST_THOUGHT)
        if answer and answer not in self.text:
            found.add(BESIDE_CALL if message.get("tool_calls") else ANSWER)
        return found

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
        usual = self.renderer.usual_end if last and not self.messages[index].get("tool_calls") else None
        if usual and self.text.endswith(self.messages[index]["content"].strip() + usual.tail):
            return len(self.text) - len(usual.tail) + usual.learnt, usual.ended
        return self.searched_end(index)

    def searched_end(self, index: int) -> tuple[int, bool]:
        """Where what is learnt of a turn ends, and whether an end of the turn is in it."""
        last = index == len(self.messages) - 1
        alone = [*self.messages, said("user", "a")] if last else self.messages[: index + 1]
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
            shared = self._to_end_token(shared)
            return content_end + len(shared), bool(shared.strip())
        # Without its own end: inference stops at the mark that begins the next turn, where there is one.
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

    def _to_end_token(self, tail: str) -> str:
        """Up to the tokenizer's end token, where it is there: Command A opens the next turn right behind it."""
        token = self.renderer.end_token
        at = tail.find(token) if token else -1
        return tail if at < 0 else tail[: at + len(token)]

    def _common(self, one: str, two: str) -> str:
        made = ""
        for left, right in zip(self.renderer.marks(one), self.renderer.marks(two), strict=False):
            if left != right:
                if left.isspace() or right.isspace():
                    break
                shorter = min(left, right, key=len)  # a text that continues is not a mark
                if not self.renderer.is_mark(left) and not self.renderer.is_mark(right) and left.startswith(shorter):
                    made += shorter if right.startswith(shorter) else ""
                break
            made += left
        return made


def has_thought(message: Message) -> bool:
    """Whether an assistant's turn has a thought, wherever it is."""
    return message["role"] == "assistant" and bool(
        message.get("reasoning_content") or THOUGHT.match(message.get("content") or "")
    )


def said(role: str, content: str) -> Message:
    """A message with a text."""
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


def _common_prefix(one: str, two: str) -> int:
    """Characters that both begin with; by halves, since texts are long."""
    low, high = 0, min(len(one), len(two))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == two[low:middle] else (low, middle - 1)
    return low


def _common_suffix(one: str, two: str) -> int:
    return _common_prefix(one[::-1], two[::-1])
