"""The common forms of training rows: which one a row has, and what it says.

Alpaca: https://github.com/tatsu-lab/stanford_alpaca. ShareGPT: https://github.com/lm-sys/FastChat. OpenAI messages:
https://platform.openai.com/docs/api-reference/chat. Preference pairs: https://huggingface.co/docs/trl/dataset_formats
and https://huggingface.co/datasets/Anthropic/hh-rlhf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from common.data.messages import (
    Message,
    RowError,
    from_transcript,
    normalize,
    optional_text,
    text_of,
    tools_of,
    unused_keys,
)

QUESTIONS = ("question", "problem", "prompt", "query", "instruction", "input")
ANSWERS = ("answer", "solution", "response", "output", "completion", "target")
TRUTHS = ("ground_truth", "final_answer")
SYSTEM = {"role": "system"}


@dataclass
class Example:
    """What a row says.

    Args:
        prompt: Messages before the answer; the last one is not the assistant's.
        answer: The assistant's messages that follow (empty when there is only a prompt).
        ground_truth: The right answer where the row gives one apart from ``answer``.
        chosen: Preferred answer, empty when there is no pair.
        rejected: The other one.
        tools: Descriptions of the tools that the assistant may call.
        columns: Columns that are kept as they are: ``data_source``, ``ability``, ``extra_info``, ``self_play`` ...
        unused: Keys of messages that have no place in the result.
    """

    prompt: list[Message]
    answer: list[Message] = field(default_factory=list)
    ground_truth: Any = None
    chosen: list[Message] = field(default_factory=list)
    rejected: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Columns:
    """Names of columns that a user gave; None is found out.

    Args:
        input: The user's text (or the list of messages).
        output: The assistant's text.
        system: The system prompt.
    """

    input: str | None = None
    output: str | None = None
    system: str | None = None


KEPT = {"data_source", "ability", "extra_info", "reward_model", "self_play", "enable_thinking", "agent_name"}
Form = Callable[[dict[str, Any], Columns], Example]


def read_example(row: dict[str, Any], columns: Columns) -> Example:
    """Understand a row.

    Raises:
        RowError: If its form is not known or it lacks something; the message names the field.
    """
    example = find_form(row, columns)(row, columns)
    for name in row.keys() & KEPT:
        if row[name] is not None:
            example.columns[name] = row[name]
    if "tools" in row:
        example.tools = tools_of(row["tools"])
    if example.ground_truth is None:
        for name in TRUTHS:
            if row.get(name) is not None:
                example.ground_truth = row[name]
                break
    return example


def find_form(row: dict[str, Any], columns: Columns) -> Form:
    """The function that reads rows with these columns.

    Raises:
        RowError: If there is none.
    """
    has = row.keys()
    if columns.input or columns.output:
        return from_columns
    if "chosen" in has and "rejected" in has and (row["chosen"] is not None or row["rejected"] is not None):
        return from_pair
    if "messages" in has and row["messages"] is not None:
        return from_messages
    if row.get("conversations") is not None or row.get("conversation") is not None:
        return from_sharegpt
    if "instruction" in has and "output" in has:
        return from_alpaca
    if not has.isdisjoint(QUESTIONS):
        return from_columns
    raise RowError(
        f"columns {', '.join(map(str, row)) or '(none)'}: not a known form; name them with --input and --output"
    )


def split_answer(messages: list[Message], name: str) -> tuple[list[Message], list[Message]]:
    """Divide a conversation before its last run of assistant turns (tool turns between them belong to the prompt)."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    if not end:
        raise RowError(f"{name}: has nobody but the assistant in it")
    return messages[:end], messages[end:]


def with_system(messages: list[Message], system: str) -> list[Message]:
    """Messages with a system turn in front, unless they have one."""
    if not system or messages[0]["role"] == "system":
        return messages
    return [{**SYSTEM, "content": system}, *messages]


def from_messages(row: dict[str, Any], columns: Columns) -> Example:
    """Rows with ``messages``."""
    messages = with_system(normalize(row["messages"], "messages"), optional_text(row, columns.system or "system"))
    prompt, answer = split_answer(messages, "messages")
    return Example(prompt, answer, unused=unused_keys(row["messages"]))


def from_sharegpt(row: dict[str, Any], columns: Columns) -> Example:
    """Rows with ``conversations`` of ``{from, value}`` (or of ``{role, content}``)."""
    name = "conversations" if row.get("conversations") is not None else "conversation"
    messages = with_system(normalize(row[name], name), optional_text(row, columns.system or "system"))
    prompt, answer = split_answer(messages, name)
    return Example(prompt, answer, unused=unused_keys(row[name]))


def from_alpaca(row: dict[str, Any], columns: Columns) -> Example:
    """Rows with ``instruction``, ``output`` and perhaps ``input``, ``system``, ``history``."""
    messages = []
    for number, turn in enumerate(row.get("history") or [], 1):
        if type(turn) is not list or len(turn) != 2:
            raise RowError(f"history: turn {number} must be a list of a question and an answer")
        messages.append({"role": "user", "content": text_of(turn[0], f"history: turn {number}")})
        messages.append({"role": "assistant", "content": text_of(turn[1], f"history: turn {number}")})
    question, extra = text_of(row["instruction"], "instruction"), optional_text(row, "input")
    messages.append({"role": "user", "content": f"{question}\n{extra}" if extra else question})
    answer = [{"role": "assistant", "content": text_of(row["output"], "output")}]
    return Example(with_system(messages, optional_text(row, columns.system or "system")), answer)


def from_columns(row: dict[str, Any], columns: Columns) -> Example:
    """Rows with a question and perhaps an answer, each a text or a list of messages; also verl's own RL rows."""
    question = columns.input or next(name for name in QUESTIONS if name in row)
    if columns.output:
        answer: str | None = columns.output
    else:
        answer = next((name for name in ANSWERS if name in row and row[name] is not None), None)
    for name in (columns.input, columns.output):
        if name and name not in row:
            raise RowError(f"{name}: there is no such column; there are {', '.join(map(str, row))}")
    prompt = _messages(row[question], question, "user")
    system = optional_text(row, columns.system or "system")
    following = _messages(row[answer], answer, "assistant") if answer else []
    example = Example(with_system(prompt, system), following, unused=unused_keys(row[question]))
    reward_model = row.get("reward_model")
    if type(reward_model) is dict:
        example.ground_truth = reward_model.get("ground_truth")
    return example


def _messages(value: Any, name: str, role: str) -> list[Message]:
    if type(value) is list:
        return normalize(value, name)
    return [{"role": role, "content": text_of(value, name)}]


def from_pair(row: dict[str, Any], columns: Columns) -> Example:
    """Preference rows in their four usual forms."""
    chosen, rejected = row["chosen"], row["rejected"]
    before = next((name for name in ("conversations", "conversation", *QUESTIONS) if row.get(name) is not None), None)
    if before is None and type(chosen) is str and type(rejected) is str:
        first, second = from_transcript(chosen, "chosen"), from_transcript(rejected, "rejected")
        return _divided(first, second)
    first, second = _side(chosen, "chosen"), _side(rejected, "rejected")
    if before is None or _is_conversation(first):
        return _divided(first, second)
    prompt = _messages(row[before], before, "user")
    prompt = with_system(prompt, optional_text(row, columns.system or "system"))
    return Example(prompt, chosen=first, rejected=second)


def _side(value: Any, name: str) -> list[Message]:
    return normalize([value], name) if type(value) is dict else _messages(value, name, "assistant")


def _is_conversation(messages: list[Message]) -> bool:
    return messages[0]["role"] in ("system", "user")


def _divided(chosen: list[Message], rejected: list[Message]) -> Example:
    """Two conversations with one beginning: what they share is the prompt."""
    shared = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        shared += 1
    while shared and (shared >= len(chosen) or shared >= len(rejected)):
        shared -= 1
    while shared and chosen[shared]["role"] != "assistant":
        shared -= 1
    if not shared or chosen[shared]["role"] != "assistant" or rejected[shared]["role"] != "assistant":
        raise RowError("chosen, rejected: do not begin with the same prompt")
    return Example(chosen[:shared], chosen=chosen[shared:], rejected=rejected[shared:])
