"""What is wrong with a row in verl's form: first what a trainer cannot read, then what it should not learn."""

from __future__ import annotations

import math
from typing import Any

from common.data import self_play

ROLES = ("system", "user", "assistant", "tool")


def structure(algorithm: str, row: dict[str, Any]) -> str | None:
    """Return what keeps a trainer from reading a row, as ``field: reason``, or None."""
    if algorithm == "sft":
        return _sft_structure(row)
    if algorithm == "text":
        text = row.get("text")
        return None if isinstance(text, str) and text.strip() else "text: must hold a text"
    if algorithm == "dpo" or (algorithm == "kto" and self_play.is_pair(row)):
        return _preference_structure(row)
    if algorithm == "kto":
        return _marked_structure(row)
    return _self_play_structure(row) if algorithm == "gspo" else _rl_structure(row)


def quality(algorithm: str, row: dict[str, Any]) -> str | None:
    """Return what makes a readable row a bad one to learn from, as ``field: reason``, or None."""
    if algorithm == "text":
        return None
    if algorithm == "sft":
        return _turns(row["messages"], "messages") or _ends_with_user(row["messages"])
    problem = _turns(row["prompt"], "prompt")
    pair = algorithm == "dpo" or (algorithm in ("gspo", "kto") and self_play.is_pair(row))
    if problem is None and algorithm == "kto" and not pair:
        return _side(row["completion"], "completion")
    if problem or not pair:
        return problem
    if row["chosen"] == row["rejected"]:
        return "chosen, rejected: are the same"
    return _side(row["chosen"], "chosen") or _side(row["rejected"], "rejected")


def missing_truth(row: dict[str, Any]) -> str | None:
    """Return that a row of prompts has no answer to compare with, or None."""
    truth = row["reward_model"].get("ground_truth")
    if truth is None or truth == "" or (isinstance(truth, float) and math.isnan(truth)):
        return "reward_model: ground_truth is missing; only a reward model or a judge can score this row"
    return None


def _sft_structure(row: dict[str, Any]) -> str | None:
    problem = check_messages(row.get("messages"), "messages")
    if problem:
        return problem
    if all(message["role"] != "assistant" for message in row["messages"]):
        return "messages: has no assistant turn, so there is nothing to learn"
    if all(message.get("weight") == 0 for message in row["messages"] if message["role"] == "assistant"):
        return "messages: all turns of the assistant have the weight 0, so there is nothing to learn"
    return None


def _self_play_structure(row: dict[str, Any]) -> str | None:
    problem = self_play.neither(row)
    if problem is None and self_play.is_pair(row):
        problem = _preference_structure(row)
    return problem or (_rl_structure(row) if self_play.is_prompt(row) else None)


def _rl_structure(row: dict[str, Any]) -> str | None:
    source = row.get("data_source")
    if not isinstance(source, str) or not source:
        return "data_source: must hold a word that names the data set"
    problem = check_messages(row.get("prompt"), "prompt")
    if problem:
        return problem
    if row["prompt"][-1]["role"] == "assistant":
        return "prompt: ends with the assistant; the model is to answer, so end it with the user"
    reward_model = row.get("reward_model")
    if not isinstance(reward_model, dict) or "ground_truth" not in reward_model:
        return "reward_model: must hold {style, ground_truth}"
    return None


def _preference_structure(row: dict[str, Any]) -> str | None:
    if problem := _answers_structure(row, ("chosen", "rejected")):
        return problem
    margin = row.get("margin")
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float) or math.isnan(margin)):
        return f"margin: must be a number, got {margin!r}"
    return None


def _marked_structure(row: dict[str, Any]) -> str | None:
    if problem := _answers_structure(row, ("completion",)):
        return problem
    if not isinstance(row.get("label"), bool):
        return f"label: must be true for a good answer and false for a bad one, got {row.get('label')!r}"
    return None


def _answers_structure(row: dict[str, Any], answers: tuple[str, ...]) -> str | None:
    for column in ("prompt", *answers):
        value = row.get(column)
        if isinstance(value, str) and value.strip():
            continue
        problem = check_messages(value, column)
        if problem:
            return problem
    if isinstance(row["prompt"], list) and row["prompt"][-1]["role"] == "assistant":
        return f"prompt: ends with the assistant; the answers belong in {' and '.join(answers)}"
    return None


def check_messages(messages: Any, column: str) -> str | None:
    """Return what is wrong with a list of messages, or None."""
    if messages is None:
        return f"{column}: is missing"
    if not isinstance(messages, list) or not messages:
        return f"{column}: must hold a list of {{role, content}}, got {type(messages).__name__}"
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, dict) else message
            return f"{column}: message {number} has the role {role!r}; roles are {', '.join(ROLES)}"
        if message.get("content") is None and not message.get("tool_calls"):
            return f"{column}: message {number} has no content"
    return None


def _turns(messages: Any, column: str) -> str | None:
    """Roles in their order, and no turn empty."""
    if isinstance(messages, str):
        return None
    before = None
    for number, message in enumerate(messages, 1):
        role = message["role"]
        calls = message.get("tool_calls")
        if not calls and role != "tool" and not str(message["content"]).strip():
            return f"{column}: message {number} ({role}) is empty"
        if role == "system" and before is not None:
            return f"{column}: message {number} is a system prompt; it must be the first message"
        if role not in _NEXT[before]:
            word = "begins with" if before in (None, "system") else f"message {number}, after {before}, is"
            return f"{column}: {word} {role}; expected {' or '.join(_NEXT[before])}"
        before = "assistant's tool call" if role == "assistant" and calls else role
    return None


_NEXT = {
    None: ("user", "system"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "assistant's tool call": ("tool",),
    "tool": ("assistant", "tool"),
}


def _ends_with_user(messages: list[dict[str, Any]]) -> str | None:
    if messages[-1]["role"] != "assistant":
        return f"messages: ends with {messages[-1]['role']}; the last turn must be the assistant's"
    return None


def _side(messages: Any, column: str) -> str | None:
    if isinstance(messages, str):
        return None
    if messages[0]["role"] != "assistant":
        return f"{column}: begins with {messages[0]['role']}; expected the assistant's answer"
    return _turns([{"role": "user", "content": "?"}, *messages], column)
