"""The common forms of training rows: which one a row has, and what it says.

Alpaca: https://github.com/tatsu-lab/stanford_alpaca. ShareGPT: https://github.com/lm-sys/FastChat. OpenAI messages:
https://platform.openai.com/docs/api-reference/chat. Preference pairs: ``common.data.pairs``.
"""

from __future__ import annotations

import json
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
    weight_of,
)
from common.data.names import ANSWERS, KEPT, QUESTIONS, TESTS, TRUTHS, WORKED, Columns, View, view_of

__all__ = ["ANSWERS", "KEPT", "QUESTIONS", "TRUTHS", "Columns", "Example", "read_example"]


ACCEPTED = set(KEYS)  # names under which an object holds the answers that count


@dataclass
class Example:
    """What a row says.

    Args:
        prompt: Messages before the answer; the last one is not the assistant's.
        answer: The assistant's messages that follow (empty when there is only a prompt).
        ground_truth: The right answer where the row gives one apart from ``answer``; a list of all that count.
        chosen: Preferred answer, empty when there is no pair.
        rejected: The other one.
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


def read_example(row: dict[str, Any], columns: Columns) -> Example:
    """Understand a row.

    Raises:
        RowError: If its form is not known or it lacks something; the message names the field.
    """
    view = view_of(row, columns)
    if view.plain:
        if example := _plain_example(row, view):
            return example
        view = View(row, view.origin)
    try:
        example = _read(view)
    except RowError as error:
        raise RowError(view.said(str(error))) from None
    example.view = view
    return example


def _plain_example(row: dict[str, Any], view: View) -> Example | None:
    """The short way for a row of a question and an answer that are plain texts: nearly all rows are, and it counts."""
    question, answer = row[view.plain[0]], row[view.plain[1]]
    if not type(question) is type(answer) is str or not question.strip() or not answer.strip():
        return None
    if question[0] in "[{" or answer[0] in "[{":  # perhaps JSON
        return None
    view.used.update(view.plain)
    prompt, following = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    return Example([prompt], [following], view=view, form="question and answer")


def _read(view: View) -> Example:
    from common.data.pairs import from_pair, is_pair

    values = view.values
    if is_pair(view):
        example = from_pair(view)
    elif values.get("messages") is not None and not view.named.intersection(QUESTIONS):
        example = from_messages(view)
    elif "test_list" in values and "text" in values and not view.first(QUESTIONS):  # MBPP
        example = from_columns(view, "text")
    elif any(name in values for name in QUESTIONS):
        example = from_columns(view)
    else:
        columns = ", ".join(str(column) for names in view.origin.values() for column in names) or "(none)"
        if view.there == {"text"}:
            raise RowError(
                "text: plain text has no question and no answer, and answers are what is learnt (pretraining on text "
                "is not what this kit does); where it is a question, name it: --map prompt=text"
            )
        raise RowError(
            f"columns {columns}: not a known form; name them with --input and --output, or --map part=column"
        )
    if not view.there.isdisjoint(KEPT):
        for name in KEPT:
            if values.get(name) is not None:
                example.columns[name] = view.take(name)
    if view.has("tools"):
        example.tools += tools_of(view.take("tools"))
    if view.has("label"):
        _take_verdict(view, example)
    _take_truth(view, example)
    if view.has("weight"):
        _take_weight(view, example)
    if example.answer and view.has("reasoning"):
        thought = text_of(view.take("reasoning"), "reasoning")
        example.answer[-1] = {**example.answer[-1], "reasoning_content": thought}
    return example


def split_answer(messages: list[Message], name: str) -> tuple[list[Message], list[Message]]:
    """Divide a conversation before its last run of assistant turns (tool turns between them belong to the prompt)."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    if not end:
        raise RowError(f"{name}: has nobody but the assistant in it")
    return messages[:end], messages[end:]


def from_messages(view: View) -> Example:
    """Rows with ``messages`` of any kind; an answer may stand beside them."""
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
    """A question with what stands beside it: an instruction with its input, a text to be read before the question."""
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
    """The answer of a row; where there is a short one beside a whole one, the short one is the ground truth."""
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


def _take_truth(view: View, example: Example) -> None:
    values = view.values
    scored = values.get("reward_model")
    given = next((name for name in TRUTHS if view.has(name)), None)
    if given:
        example.ground_truth = view.take(given)
    elif type(scored) is dict and scored.get("ground_truth") is not None:
        example.ground_truth = scored["ground_truth"]
    elif not view.there.isdisjoint(TESTS) and (tests := _tests(view)):
        example.ground_truth = tests
    elif example.ground_truth is None and (example.form == "messages" or view.has("choices")):
        name = next((name for name in ("answer", "target", "correct", "label", *WORKED) if view.has(name)), None)
        if name and (name not in view.used or view.has("choices")):
            example.ground_truth = values[name]
    if view.has("choices"):
        _take_letter(view, example)


def _take_letter(view: View, example: Example) -> None:
    """The right option as its letter."""
    options = choices.options_of(view.values["choices"])
    names = ("ground_truth", "final_answer", "answer", "correct", "label", "target")
    name = next((name for name in names if view.has(name)), None)
    if name is None:
        return
    columns = view.origin.get("choices", ())
    from_one = columns and str(columns[0])[-1:].isdigit() and str(columns[0])[-1:] != "0"
    value = view.values[name]
    value = structured(value) if type(value) is str else value
    letter = choices.right_letter(value, options, name, int(bool(from_one)))
    view.used.add(name)
    example.ground_truth = letter
    answer = example.answer[-1]["content"] if example.answer else ""
    if not answer:
        example.answer = [{"role": "assistant", "content": letter}]
    elif "answer" in view.used and answer == str(view.values.get("answer")):
        example.answer = [{"role": "assistant", "content": letter}]
    elif "rationale" in view.used and not answer.rstrip(" .。").endswith(letter):
        example.answer = [{"role": "assistant", "content": f"{answer}\nAnswer: {letter}"}]


def _tests(view: View) -> str | None:
    """Tests of a program as the code reward reads them, in JSON; None when there are none."""
    if view.has("test_list"):
        names: tuple[str, ...] = ("test_list", "test_setup_code")
    elif view.has("test") and type(view.values["test"]) is str and "entry_point" in view.values:
        names = ("test", "entry_point")
    else:
        name = view.first(("tests", "test_cases", "assertion", "input_output"))
        if name is None:
            return None
        value = structured(view.take(name))
        return value if type(value) is str else json.dumps(value, ensure_ascii=False)
    found = {name: structured(view.take(name)) for name in names if view.has(name)}
    return json.dumps(found, ensure_ascii=False)


def _take_verdict(view: View, example: Example) -> None:
    """The label of rows of good and bad answers (KTO): bad ones are refused, or they would be learnt as good ones."""
    value = view.values["label"]
    if view.has("choices") or not (example.answer or "messages" in view.used):
        return
    known = {"true": True, "false": False}.get(value.strip().lower()) if type(value) is str else value
    kto = view.origin.get("label") == ("kto_tag",) or "completion" in view.used
    if type(known) is bool or (kto and known in (0, 1)):
        view.used.add("label")
        if not known:
            raise RowError(f"label: is {value}: this answer is marked as a bad one and must not be learnt")


def _take_weight(view: View, example: Example) -> None:
    if not example.answer:
        return
    weight = weight_of(view.take("weight"), "weight")
    example.answer = [{"weight": weight, **message} for message in example.answer]
