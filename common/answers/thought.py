"""Where the thought of an answer ends: what is said in it is not an answer, and one that is not finished has none."""

from __future__ import annotations

import re
from typing import Any

_NAMES = "think|thinking|thought|thoughts|reasoning|seed:think"
# Tags of DeepSeek-R1 and Qwen3, of Kimi, Magistral, Sky-T1, and the channels of gpt-oss.
_OPEN = rf"<(?:{_NAMES})>|◁think▷|\[think\]|<\|begin_of_thought\|>|<\|channel\|>analysis<\|message\|>"
_CLOSE = rf"</(?:{_NAMES})>|◁/think▷|\[/think\]|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>"
_TAG = re.compile(rf"(?P<open>{_OPEN})|(?P<close>{_CLOSE})", re.IGNORECASE)
# gpt-oss decoded without its special tokens: "analysisWe add ...assistantfinal42".
_CHANNEL, _FINAL = re.compile(r"\s*analysis(?=[A-Z])"), "assistantfinal"


def behind_thought(text: Any) -> str | None:
    """Returns what an answer says behind its thought.

    Args:
        text: A model's whole answer. The opening tag may be in the prompt, as with DeepSeek-R1: then only the
            closing one is here.

    Returns:
        The text behind the last thought, all of it where there is no thought; None when the last thought is not
        closed (it was cut off at the length limit), or for anything that is not a string.
    """
    if not isinstance(text, str):
        return None
    if "<" in text or "◁" in text or "[" in text:
        tags = list(_TAG.finditer(text))
        if tags:
            return text[tags[-1].end() :] if tags[-1]["close"] else None
    if _CHANNEL.match(text):
        _, found, answer = text.rpartition(_FINAL)
        return answer if found else None
    return text
