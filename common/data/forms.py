"""The common forms of training rows: which one a row has, and what it says.

Alpaca: https://github.com/tatsu-lab/stanford_alpaca. ShareGPT: https://github.com/lm-sys/FastChat. OpenAI messages:
https://platform.openai.com/docs/api-reference/chat. Preference pairs: ``common.data.pairs``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from common.answers import accepted
from common.answers.truth import KEYS
from common.data import choices
from common.data.messages import (
    Message,
    RowError,
    conversation_in,
    is_messages,
    normalize,
    optional_text,
    structured,
    text_of,
    tools_of,
    unused_keys,
)
from common.data.names import ANSWERS, QUESTIONS, WORKED, View

ACCEPTED = set(KEYS)  # names under which an object holds the answers that count


@dataclass
class Example:
    """What a row says.

    Args:
        prompt: Messages before the answer; the last one is not the assistant's.
        answer: The assistant's messages that follow (empty when there is only a prompt).
        ground_truth: The right answer where the row gives one apart from ``answer``; a list of all that count.
        chosen: Preferred answer, empty without a pair.
        rejected: The other one.
        wanted: Whether ``answer`` is marked as a good one; None where the row does not say.
        tools: Descriptions of the tools that the assistant may call.
        columns: Columns that are kept as they are: ``data_source``, ``ability``, ``extra_info``, ``self_play`` ...
        unused: Keys of messages that have no place in the result.
        view: The row under the names of its parts, and which of them were read.
        form: What the row was taken for, in words.
        several: The column of answers of which sft can learn only one.
    """

    prompt: list[Message]
    answer: list[Message] = field(default_factory=list)
    ground_truth: Any = None
    chosen: list[Message] = field(default_factory=list)
    rejected: list[Message] = field(default_factory=list)
    wanted: bool | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)
    view: View | None = None
    form: str = ""
    several: str | None = None

    @property
    def used(self) -> set[str]:
        """The file's own names of the columns that were read."""
        return {column for name in self.view.used for column in self.view.origin.get(name, ())}


def split_answer(messages: list[Message], name: str) -> tuple[list[Message], list[Message]]:
    """Divide a conversation before its last run of assistant turns (tool turns between them belong to the prompt)."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    if not end:
        raise RowError(f"{name}: has no turn but the assistant's")
    return messages[:end], messages[end:]


def from_messages(view: View) -> Example:
    """Rows with ``messages`` of any kind; an answer may be next to them."""
    value = view.take("messages")
    messages = with_system(view, normalize(value, "messages"))
    prompt, answer = split_answer(messages, "messages")
    prompt = with_history(view, prompt)
    example = Example(prompt, answer, unused=unused_keys(value), form="messages")
    if view.has("choices"):
        _add_options(view, example.prompt)
    if not answer:
        _take_answers(view, example)
    return example


def from_columns(view: View, question: str | None = None) -> Example:
    """Rows with a question and perhaps an answer, each a text or a list of messages; also verl's own RL rows."""
    name = question or "prompt" if "prompt" in view.named else view.first(("instruction", *QUESTIONS))
    name = question or name or next(name for name in QUESTIONS if name in view.values)
    value = conversation_in(view.take(name))
    example = Example([], form="verl's rows" if "reward_model" in view.values else "question and answer")
    if type(value) is dict and type(value.get("messages")) is list:  # a request as it was sent
        example.tools = tools_of(value.get("tools"))
        value = value["messages"]
    if is_messages(value) or type(value) is list:
        example.unused = unused_keys(value)
        messages = normalize(value, name)
        prompt, example.answer = split_answer(messages, name) if "reward_model" not in view.values else (messages, [])
    else:
        prompt = [{"role": "user", "content": _question_text(view, name)}]
    example.prompt = with_system(view, with_history(view, prompt))
    if view.has("choices"):
        _add_options(view, example.prompt)
    if not example.answer:
        _take_answers(view, example)
    return example


def _question_text(view: View, name: str) -> str:
    """A question with what is next to it: an instruction with its input, a text to be read before the question."""
    text = text_of(view.values[name], name)
    if name == "instruction":
        for other in ("input", *QUESTIONS):
            if other != name and view.has(other) and other not in view.used:
                more = text_of(view.take(other), other)
                text = text if more in text else f"{text}\n{more}"
                break
    elif name not in ("input", "prompt") and view.has("input"):
        text = f"{text}\n{text_of(view.take('input'), 'input')}"
    if view.has("context"):
        context = view.take("context")
        context = "\n\n".join(context) if type(context) is list and all(type(c) is str for c in context) else context
        context = text_of(context, "context")
        if context not in text:
            text = f"{text}\n{context}" if name == "instruction" else f"{context}\n\n{text}"
    return text


def _add_options(view: View, prompt: list[Message]) -> None:
    options = choices.options_of(view.take("choices"), "choices")
    last = prompt[-1]
    prompt[-1] = {**last, "content": choices.with_options(last["content"], options)}


def with_system(view: View, messages: list[Message]) -> list[Message]:
    """Messages with the row's system prompt in front; one that they have already stays."""
    if not view.has("system"):
        return messages
    system = optional_text(view.values, "system")
    if messages[0]["role"] == "system":
        if messages[0]["content"].strip() == system.strip():
            view.used.add("system")
        return messages
    view.used.add("system")
    return [{"role": "system", "content": system}, *messages]


def with_history(view: View, messages: list[Message]) -> list[Message]:
    """Messages behind the turns of ``history``: pairs, objects of a question and its answer, or messages."""
    if not view.has("history"):
        return messages
    history = structured(view.take("history"))
    if type(history) is not list:
        raise RowError("history: expected a list of turns")
    for number, turn in enumerate(history, 1):
        if type(turn) is list and (len(turn) != 2 or any(type(side) is not str for side in turn)):
            raise RowError(f"history: turn {number} must be a list of a question and an answer")
    before = normalize(history, "history")
    start = 1 if messages[0]["role"] == "system" else 0
    return [*messages[:start], *before, *messages[start:]]


def _take_answers(view: View, example: Example) -> None:
    """The answer of a row; where there is a short one next to a whole one, the short one is the ground truth."""
    there = [name for name in ANSWERS if name in view.there]
    whole = [name for name in there if name in WORKED]
    rationale = not whole and view.has("choices") and view.has("rationale")
    short = [name for name in there if name not in WORKED]
    name = whole[0] if whole else "rationale" if rationale else short[0] if short else None
    if name is None and view.has("chosen") and not view.has("rejected"):
        name = "chosen"
    if name is None:
        empty = next((name for name in ANSWERS if view.values.get(name) == ""), None)
        if empty and not view.has("ground_truth"):
            text_of("", empty)
        if "answer" in view.named:
            text_of(view.values["answer"], "answer")
        return
    value = conversation_in(view.take(name))
    if is_messages(value) or (type(value) is dict and ("role" in value or "from" in value)):
        example.answer = normalize(value if type(value) is list else [value], name)
    elif type(value) is list or (type(value) is dict and not ACCEPTED.isdisjoint(value)):
        answers = (
            [str(one) for one in accepted(value)] if type(value) is dict else [text_of(one, name) for one in value]
        )
        example.answer = [{"role": "assistant", "content": answers[0]}]
        if len(set(answers)) > 1:
            example.several = name
        if name in short or not short:
            example.ground_truth = answers
    else:
        example.answer = [{"role": "assistant", "content": text_of(value, name)}]
    if name not in short and short and example.ground_truth is None:
        example.ground_truth = view.values[short[0]]
