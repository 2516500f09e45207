"""How an observation becomes a part of the conversation."""

from __future__ import annotations

from typing import Any


def with_observation(messages: list[dict[str, Any]], observation: str) -> list[dict[str, Any]]:
    """The prompt with the first observation: in the user's last turn, as chat templates want turns to alternate.

    Args:
        messages: The row's prompt.
        observation: What ``reset`` returned; ``""`` adds nothing.
    """
    if not observation:
        return messages
    *before, last = messages
    if last["role"] == "user" and isinstance(last["content"], str):
        return [*before, {**last, "content": f"{last['content']}\n{observation}".strip()}]
    return [*messages, {"role": "user", "content": observation}]


def cut(text: str, limit: int) -> str:
    """At most ``limit`` characters and a mark; a longer text loses its middle, as a tool's answer does."""
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}...(truncated)...{text[-half:]}"
