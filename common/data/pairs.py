"""Preference pairs in their usual forms.

https://huggingface.co/docs/trl/dataset_formats, https://huggingface.co/datasets/Anthropic/hh-rlhf,
https://platform.openai.com/docs/guides/direct-preference-optimization.
"""

from __future__ import annotations

from typing import Any

from common.data.forms import Example, from_columns, from_messages, with_history, with_system
from common.data.messages import Message, RowError, conversation_in, from_transcript, is_messages, normalize, text_of
from common.data.names import QUESTIONS, View


def is_pair(view: View) -> bool:
    """Whether a row has a preferred answer and another."""
    values = view.values
    if (
        "chosen" in values
        and "rejected" not in values
        and "other" in values
        and view.origin["chosen"] == ("preferred",)
    ):
        values["rejected"] = values.pop("other")
        view.origin = {**view.origin, "rejected": ("other",)}
        view.there.add("rejected")
    if "rejected" in values and "chosen" in values:
        return values["chosen"] is not None or values["rejected"] is not None
    # the preferred answer ends the conversation, or is the row's answer
    return view.has("rejected") and (view.has("messages") or view.first(_ANSWERS) is not None)


def from_pair(view: View) -> Example:
    """Preference rows: texts, messages, whole conversations, or transcripts."""
    rejected = conversation_in(view.take("rejected"))
    if "chosen" not in view.values:
        return _beside_answer(view, rejected)
    chosen = conversation_in(view.take("chosen"))
    has_prompt = view.has("messages") or view.first(QUESTIONS)
    if not has_prompt and type(chosen) is str and type(rejected) is str:
        return _with_rest(view, _divided(from_transcript(chosen, "chosen"), from_transcript(rejected, "rejected")))
    first, second = _side(chosen, "chosen"), _side(rejected, "rejected")
    if _is_conversation(first) or not has_prompt:
        return _with_rest(view, _divided(first, second))
    example = _prompt(view)
    example.chosen, example.rejected, example.form = first, second, "pairs"
    return example


def _prompt(view: View) -> Example:
    """The prompt of a pair; answers next to it are not read."""
    hidden = View({k: v for k, v in view.values.items() if k not in _SIDES}, view.origin, view.named, view.doubled)
    hidden.used = view.used
    example = from_messages(hidden) if view.has("messages") else from_columns(hidden)
    if "messages" in view.used or example.answer:
        from_prompt = example.answer and (view.has("messages") or not view.used.intersection(_ANSWERS))
        if from_prompt:
            raise RowError("messages: ends with the assistant although chosen and rejected are next to it")
    for name in _ANSWERS:
        view.used.discard(name)
    example.answer, example.ground_truth, example.several = [], None, None
    return example


_ANSWERS = ("answer", "target", "response", "output", "completion", "solution", "rationale")
_SIDES = ("chosen", "rejected", *_ANSWERS)


def _beside_answer(view: View, rejected: Any) -> Example:
    example = from_messages(view) if view.has("messages") else from_columns(view)
    if not example.answer:
        raise RowError("messages: ends without an answer, and there is no chosen one")
    example.chosen, example.answer = example.answer, []
    second = _side(rejected, "rejected")
    if _is_conversation(second):
        return _with_rest(view, _divided([*example.prompt, *example.chosen], second))
    example.rejected, example.form = second, "pairs"
    return example


def _with_rest(view: View, example: Example) -> Example:
    example.prompt = with_system(view, with_history(view, example.prompt))
    example.form = "pairs of conversations"
    return example


def _side(value: Any, name: str) -> list[Message]:
    if type(value) is dict:
        return normalize(value if type(value.get("messages")) is list else [value], name)
    if type(value) is list and (is_messages(value) or any(type(item) is not str for item in value) or not value):
        return normalize(value, name)
    if type(value) is list and len(value) == 1:
        value = value[0]
    return [{"role": "assistant", "content": text_of(value, name)}]


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
