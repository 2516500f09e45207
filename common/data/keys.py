"""Numbers by which equal prompts and equal rows are known again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from common.data.rows import loaded, loaded_tools


def prompt_key(messages: Any, salt: int = 0) -> int:
    """A number of 64 bits that two equal prompts share; another one for each salt."""
    if isinstance(messages, str):
        text = messages
    else:
        text = "\x1e".join(
            f"{message['role']}\x1f{message['content']}{_calls(message)}{_thought(message)}" for message in messages
        )
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, salt=salt.to_bytes(8, "big")).digest(), "big")


def _calls(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls")
    return "\x1f" + json.dumps(loaded(calls), sort_keys=True) if calls else ""


def _thought(message: dict[str, Any]) -> str:
    """What else a turn teaches: its thought, and whether it is learnt at all."""
    thought, weight = message.get("reasoning_content"), message.get("weight")
    return (f"\x1d{thought}" if thought else "") + ("\x1dw0" if weight == 0 else "")


def row_key(algorithm: str, row: dict[str, Any]) -> int:
    """A number of 64 bits that two rows share when they teach the same."""
    if algorithm == "text":
        return prompt_key(row["text"])
    if algorithm == "sft":
        return hash((prompt_key(row["messages"]), str(loaded_tools(row.get("tools")))))
    if algorithm in ("dpo", "kto"):
        answers = [prompt_key(row[name]) for name in ("chosen", "rejected", "completion") if row.get(name)]
        return hash((prompt_key(row["prompt"]), *answers, row.get("label")))
    return prompt_key(row["prompt"])


def question_of(row: dict[str, Any]) -> Any:
    """The messages before the last answer: what must not be in both training and validation; of raw text all of it."""
    if "text" in row and "prompt" not in row and "messages" not in row:
        return row["text"]
    if "messages" not in row:
        return row["prompt"]
    messages = row["messages"]
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=len(messages))
    return messages[:last]
