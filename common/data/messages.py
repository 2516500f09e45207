"""Messages in one form: ``{role, content}`` as chat templates read them, whatever form they came in."""

from __future__ import annotations

import json
import re
from typing import Any

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
    "tool": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool",
    "function_call": "function_call", "function": "tool", "tool_call": "function_call",
}  # fmt: skip
OPTIONAL_KEYS = ("name", "tool_call_id", "reasoning_content")  # texts that some chat templates read
KNOWN_KEYS = {"role", "from", "content", "value", "tool_calls", *OPTIONAL_KEYS}
TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant):")

Message = dict[str, Any]


class RowError(ValueError):
    """A row that cannot be used; the message names the field and the reason."""


def text_of(value: Any, field: str) -> str:
    """A column's value as text; numbers are written out, anything else is an error.

    Raises:
        RowError: If it is missing, empty or neither text nor number.
    """
    if type(value) is str:
        if value and not value.isspace():
            return value
        raise RowError(f"{field}: is empty")
    if value is None:
        raise RowError(f"{field}: is missing")
    if isinstance(value, bool | int | float):
        return str(value)
    raise RowError(f"{field}: holds {type(value).__name__}, expected a text")


def optional_text(row: dict[str, Any], field: str) -> str:
    """Like ``text_of``, and empty when there is none."""
    value = row.get(field)
    return "" if value is None or value == "" else text_of(value, field)


def normalize(messages: Any, field: str) -> list[Message]:
    """Messages of the OpenAI or the ShareGPT form as ``role``, ``content`` and, where there are, ``tool_calls``.

    Args:
        messages: List of ``{role, content}`` or ``{from, value}``; contents may be lists of text parts.
        field: Column that they come from, for errors.

    Returns:
        New messages; roles are system, user, assistant and tool; arguments of tool calls are objects.

    Raises:
        RowError: If one is not a message, with its number from 1.
    """
    if type(messages) is not list:
        raise RowError(f"{field}: holds {_kind(messages)}, expected a list of messages")
    if not messages:
        raise RowError(f"{field}: is an empty list")
    return [_message(message, field, number) for number, message in enumerate(messages, 1)]


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _message(message: Any, field: str, number: int) -> Message:
    if type(message) is not dict:
        raise RowError(f"{field}: message {number} is {_kind(message)}, expected {{role, content}}")
    role = message.get("role") or message.get("from")
    content = message.get("content") if "content" in message else message.get("value")
    known = ROLES.get(role) if type(role) is str else None
    if known is None:
        raise RowError(f"{field}: message {number} has the role {role!r}; known are {', '.join(ROLES)}")
    if known == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _calls_in_text(content, field, number)}
    calls = message.get("tool_calls")
    if type(content) is not str:
        content = _flat(content, bool(calls), field, number)
    made = {"role": known, "content": content}
    if len(message) > 2:
        for key in OPTIONAL_KEYS:
            if message.get(key) is not None:
                made[key] = text_of(message[key], f"{field}: message {number}: {key}")
        if calls:
            made["tool_calls"] = [_call(call, field, number) for call in calls]
    return made


def unused_keys(messages: Any) -> set[str]:
    """Keys of messages that have no place in the result and hold something."""
    if type(messages) is not list:
        return set()
    return {
        key
        for message in messages
        if type(message) is dict
        for key, value in message.items()
        if key not in KNOWN_KEYS and value is not None
    }


def _flat(content: Any, may_be_missing: bool, field: str, number: int) -> str:
    """The text of a content that is a list of parts, as in the OpenAI form."""
    if content is None and may_be_missing:
        return ""
    if type(content) is list:
        kinds = {part.get("type") if type(part) is dict else _kind(part) for part in content}
        if kinds <= {"text"}:
            return "".join(text_of(part.get("text"), f"{field}: message {number}: text") for part in content)
        others = ", ".join(sorted(str(kind) for kind in kinds - {"text"}))
        raise RowError(f"{field}: message {number} has parts of the kind {others}; only text is supported")
    if isinstance(content, int | float) and not isinstance(content, bool):
        return str(content)
    raise RowError(f"{field}: message {number} has the content {_kind(content)}, expected a text")


def _call(call: Any, field: str, number: int) -> dict[str, Any]:
    """One tool call as ``{type, function: {name, arguments}}``, its arguments as an object."""
    function = call.get("function", call) if type(call) is dict else None
    if type(function) is not dict or type(function.get("name")) is not str:
        raise RowError(f"{field}: message {number}: a tool call needs function.name and function.arguments")
    arguments = function.get("arguments")
    if type(arguments) is str:
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise RowError(
                f"{field}: message {number}: arguments of {function['name']} are not JSON: {error}"
            ) from None
    if arguments is None:
        arguments = {}
    if type(arguments) is not dict:
        raise RowError(f"{field}: message {number}: arguments of {function['name']} must be an object")
    made = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": str(call["id"]), **made} if call.get("id") is not None else made


def _calls_in_text(content: Any, field: str, number: int) -> list[dict[str, Any]]:
    """Tool calls of a ShareGPT turn ``function_call``: JSON of one call or of a list of them."""
    if type(content) is str:
        try:
            content = json.loads(content)
        except ValueError as error:
            raise RowError(f"{field}: message {number}: the function call is not JSON: {error}") from None
    calls = content if type(content) is list else [content]
    if not calls:
        raise RowError(f"{field}: message {number}: the function call is empty")
    return [_call(call, field, number) for call in calls]


def tools_of(value: Any, field: str = "tools") -> list[dict[str, Any]]:
    """Tool descriptions as ``{type: function, function: {name, description, parameters}}``.

    Args:
        value: A list of descriptions with or without the envelope, JSON of one, or nothing.
        field: Column that they come from.

    Raises:
        RowError: If they are something else.
    """
    if type(value) is str and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RowError(f"{field}: is not JSON: {error}") from None
    if not value:
        return []
    if type(value) is dict:
        value = [value]
    if type(value) is not list or any(type(tool) is not dict for tool in value):
        raise RowError(f"{field}: expected a list of tool descriptions")
    return [_tool(tool, field) for tool in value]


def _tool(tool: dict[str, Any], field: str) -> dict[str, Any]:
    function = tool.get("function") if tool.get("type") == "function" else tool
    if type(function) is not dict or type(function.get("name")) is not str:
        raise RowError(f"{field}: a tool description needs a name")
    return {"type": "function", "function": function}


def from_transcript(text: str, field: str) -> list[Message]:
    r"""Messages of a text ``\n\nHuman: ...\n\nAssistant: ...`` (the form of hh-rlhf).

    Raises:
        RowError: If it does not begin with one of the two.
    """
    parts = TRANSCRIPT.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise RowError(f"{field}: expected a text that begins with 'Human:' or 'Assistant:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[name], "content": content.strip()}
        for name, content in zip(parts[1::2], parts[2::2], strict=True)
    ]
