"""Rows as verl's trainers read them (its utils/dataset/rl_dataset.py and multiturn_sft_dataset.py)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from common.answers import accepted, marked_answer
from common.data.forms import ACCEPTED, Example
from common.data.messages import Message, RowError
from common.data.readers.depth import parsed

ALGORITHMS = ("sft", "grpo", "ppo", "gspo", "dpo", "kto", "text")  # text: of sft, see DATA_FORM
RL = ("grpo", "ppo", "gspo")
PATTERN_SECONDS = 1.0


@dataclass(frozen=True)
class RowOptions:
    r"""How an example becomes a row.

    Args:
        algorithm: One of ``ALGORITHMS``.
        data_source: Name of the data set, where the row gives none.
        system: System prompt for rows that have none.
        allow_loss: Leave out known parts that the row has no place for.
        self_play: For gspo: the model answers the prompts of pairs too.
        answer_pattern: Regular expression whose first group is the final answer; by default what follows
            ``####``, else in the last ``\boxed{}``, else the whole answer.
    """

    algorithm: str
    data_source: str
    system: str = ""
    answer_pattern: str | None = None
    allow_loss: bool = False
    self_play: bool = False


def make_row(example: Example, options: RowOptions, index: int) -> dict[str, Any]:
    """The row that an example becomes.

    Raises:
        RowError: If the example lacks what the algorithm needs.
    """
    if example.wanted is False and options.algorithm != "kto":
        problem = f"label: is {example.view.values['label']}: this answer is marked as a bad one and must not be learnt"
        raise RowError(example.view.said(f"{problem}; --algo kto learns from both kinds"))
    if options.system and example.prompt[0]["role"] != "system":
        example.prompt = [{"role": "system", "content": options.system}, *example.prompt]
    if options.algorithm == "sft":
        return sft_row(example)
    if options.algorithm == "dpo":
        return preference_row(example)
    if options.algorithm == "kto":
        return preference_row(example) if example.chosen and example.rejected else marked_row(example)
    return rl_row(example, options, index)


def text_row(row: dict[str, Any], column: str) -> dict[str, Any]:
    """``text``, for continued pretraining.

    Raises:
        RowError: If the column is not there or holds no text.
    """
    if column not in row:
        raise RowError(f"{column}: there is no such column; there are {', '.join(map(str, row))} (name it: --input)")
    if not isinstance(row[column], str) or not row[column].strip():
        raise RowError(f"{column}: must hold a text, got {str(row[column])[:40]!r}")
    return {"text": row[column]}


def sft_row(example: Example) -> dict[str, Any]:
    """``messages`` and, where there are, ``tools`` and ``enable_thinking``."""
    messages = [*example.prompt, *(example.answer or example.chosen)]
    if all(message["role"] != "assistant" for message in messages):
        columns = ", ".join(str(column) for names in example.view.origin.values() for column in names)
        raise RowError(
            f"messages: has no assistant turn, so there is nothing to learn (columns {columns}); name the answer with "
            "--map answer=COLUMN, or give --algo grpo or ppo for prompts"
        )
    row: dict[str, Any] = {"messages": _stored(messages)}
    if example.tools:
        row["tools"] = json.dumps(example.tools, ensure_ascii=False)
    if "enable_thinking" in example.columns:
        row["enable_thinking"] = bool(example.columns["enable_thinking"])
    return row


def preference_row(example: Example) -> dict[str, Any]:
    """``prompt``, ``chosen``, ``rejected``: lists of messages."""
    if not example.chosen or not example.rejected:
        raise RowError("chosen, rejected: missing; dpo learns from pairs of answers")
    row = _answers_row(example, {"chosen": example.chosen, "rejected": example.rejected})
    if (margin := example.columns.get("margin")) is not None:
        try:
            row["margin"] = float(margin)
        except (TypeError, ValueError):
            raise RowError(f"margin: must be a number, got {margin!r}") from None
    return row


def marked_row(example: Example) -> dict[str, Any]:
    """``prompt``, ``completion``: lists of messages; ``label``: whether the completion is a good one."""
    if not example.answer:
        raise RowError("completion: missing; kto learns from answers, each marked as good or bad")
    if example.wanted is None:
        raise RowError("label: missing; kto needs true for a good answer and false for a bad one (--map label=COLUMN)")
    return {**_answers_row(example, {"completion": example.answer}), "label": example.wanted}


def _answers_row(example: Example, answers: dict[str, list[Message]]) -> dict[str, Any]:
    if any(message.get("weight") == 0 for answer in answers.values() for message in answer):
        raise RowError(f"{', '.join(answers)}: a turn has the weight 0; whole answers are learnt")
    row = {"prompt": _stored(_unweighted(example.prompt))}
    row |= {name: _stored(_unweighted(answer)) for name, answer in answers.items()}
    if example.tools:
        row["tools"] = json.dumps(example.tools, ensure_ascii=False)
    return row


def rl_row(example: Example, options: RowOptions, index: int) -> dict[str, Any]:
    """``data_source prompt ability reward_model extra_info``; for gspo also ``chosen`` and ``rejected``."""
    kept = example.columns
    answer = "".join(message["content"] for message in (example.answer or example.chosen))
    truth = _truth(example.ground_truth)
    if truth is None and answer:
        truth = final_answer(answer, options.answer_pattern)
    given = kept.get("reward_model")
    style = given.get("style") if type(given) is dict else None
    extra = kept.get("extra_info")
    extra = {key: value for key, value in extra.items() if value is not None} if type(extra) is dict else {}
    extra.setdefault("index", index)
    if answer:
        extra.setdefault("answer", answer)
    if example.tools:
        extra.setdefault("tools", json.dumps(example.tools, ensure_ascii=False))
    row: dict[str, Any] = {
        "data_source": kept.get("data_source") or options.data_source,
        "prompt": _stored(_unweighted(example.prompt)),
        "ability": kept.get("ability") or "general",
        "reward_model": {"style": style or ("rule" if truth else "model"), "ground_truth": truth or ""},
        "extra_info": extra,
    }
    if "agent_name" in kept:
        row["agent_name"] = str(kept["agent_name"])
    if options.algorithm == "gspo":
        row |= _self_play_columns(example, options.self_play)
    return row


def _truth(value: Any) -> str | list[str] | None:
    """A ground truth as it is stored: a text, or a list of all texts that count; tests of programs as JSON."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or type(value) is str:
        return value
    if isinstance(value, int | float):
        return str(value)
    if not value:
        return None
    simple = type(value) is list and all(isinstance(one, str | int | float) for one in value)
    if simple or (type(value) is dict and "inputs" not in value and not ACCEPTED.isdisjoint(value)):
        try:
            answers = [str(one) for one in accepted(value)]
        except ValueError as error:
            raise RowError(f"ground_truth: {error}") from None
        return answers if len(answers) > 1 else answers[0]
    return json.dumps(value, ensure_ascii=False)


def _unweighted(messages: list[Message]) -> list[Message]:
    """Messages without weights, which only sft reads."""
    for message in messages:
        if "weight" in message:
            break
    else:
        return messages
    return [{key: value for key, value in message.items() if key != "weight"} for message in messages]


def _self_play_columns(example: Example, self_play: bool) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    if example.chosen:
        columns = {
            "chosen": _stored(_unweighted(example.chosen)),
            "rejected": _stored(_unweighted(example.rejected)),
        }
    if "self_play" in example.columns:
        columns["self_play"] = bool(example.columns["self_play"])
    elif self_play and example.chosen:
        columns["self_play"] = True
    return columns


def final_answer(answer: str, pattern: str | None = None) -> str:
    """The part of a worked answer that can be compared.

    Args:
        answer: The whole answer.
        pattern: See ``RowOptions.answer_pattern``.

    Raises:
        RowError: If the pattern is not found, or takes longer than ``PATTERN_SECONDS``.
    """
    if pattern:
        return _by_pattern(answer, pattern)
    if "####" not in answer and not _MARKS.search(answer):
        return answer.strip()
    if answer.isascii() and answer.count("#") == 4 and not _has_other_mark(answer):
        if line := _HASH_LINE.search(answer):
            return line[1]
    return marked_answer(answer) or answer.strip()


# What ``common.answers`` reads in full, two cases of it read fast: no mark at all, and GSM8K's last line alone.
_MARKS = re.compile(r"boxed|fbox|_of_box|</")
_HASH_LINE = re.compile(r"\n####[ \t]*([\w.,%-]+)\s*\Z")


def _has_other_mark(answer: str) -> bool:
    return "<" in answer or "[" in answer or "\\" in answer or answer.startswith("analysis")


def _by_pattern(answer: str, pattern: str) -> str:
    import regex  # unlike re, it can be told to give up

    try:
        found = regex.search(pattern, answer, regex.MULTILINE, timeout=PATTERN_SECONDS)
    except TimeoutError:
        raise RowError(
            f"answer: --answer-pattern {pattern!r} took longer than {PATTERN_SECONDS:g} s on {len(answer):,} "
            "characters; make it simpler (no nested repetition)"
        ) from None
    if not found:
        raise RowError(f"answer: --answer-pattern {pattern!r} is not in it")
    return (found.group(1) if found.re.groups else found.group()).strip()


def _stored(messages: list[Message]) -> list[Message]:
    """Messages with the arguments of tool calls as JSON, since a parquet column has one shape for all rows."""
    for message in messages:  # a loop, since this is called for every row
        if "tool_calls" in message:
            break
    else:
        return messages
    return [
        {**message, "tool_calls": _stored_calls(message)} if "tool_calls" in message else message
        for message in messages
    ]


def _stored_calls(message: Message) -> list[dict[str, Any]]:
    return [
        {**call, "function": {**call["function"], "arguments": _json(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def stored_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row for a parquet file from one that ``loaded`` put right."""
    names = ("messages", "prompt", "chosen", "rejected", "completion")
    made = {name: _stored(value) if name in names and isinstance(value, list) else value for name, value in row.items()}
    if made.get("tools") is not None and not isinstance(made["tools"], str):
        made["tools"] = json.dumps(made["tools"], ensure_ascii=False)
    return made


def loaded(value: Any) -> Any:
    """What ``_stored`` and parquet made of messages, undone: no nulls, arguments of tool calls as objects."""
    if isinstance(value, list):
        return [loaded(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _arguments(item) if key == "arguments" else loaded(item) for key, item in value.items() if item is not None
    }


def _arguments(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return parsed(value)
        except ValueError:
            return value
    return loaded(value)


def loaded_tools(value: Any) -> list[dict[str, Any]] | None:
    """Tool descriptions of a row, from JSON or from a parquet column; None when there are none."""
    if isinstance(value, str):
        return parsed(value) or None if value else None
    # pandas has NA where a row has none, and arrays for lists
    return loaded(list(value)) or None if hasattr(value, "__len__") else None
