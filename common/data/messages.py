"""Messages in one form: ``{role, content}`` as chat templates read them, whatever form they came in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from common.data.readers.depth import parsed, too_deep

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
    "tool": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool",
    "tool_response": "tool", "tool_result": "tool", "environment": "tool",
    "用户": "user", "助手": "assistant", "系统": "system",
    "function_call": "function_call", "function": "tool", "tool_call": "function_call",
}  # fmt: skip
OPTIONAL_KEYS = ("name", "tool_call_id", "reasoning_content")  # texts that some chat templates read
WEIGHTS = ("weight", "loss", "loss_weight", "train", "trainable")  # whether a turn is learnt
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
MEDIA = ("images", "image", "audio", "audios", "video", "videos")
KNOWN_KEYS = {"role", "from", "content", "value", "tool_calls", "function_call", *OPTIONAL_KEYS, *WEIGHTS, *THOUGHTS}
ASKED = ("human", "user", "input", "question", "prompt", "query", "instruction")  # turns as pairs
ANSWERED = ("assistant", "gpt", "bot", "output", "response", "answer")
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
    messages = structured(messages)
    if type(messages) is dict and type(messages.get("messages")) is list:
        messages = messages["messages"]
    if type(messages) is not list:
        raise RowError(f"{field}: holds {_kind(messages)}, expected a list of messages")
    if not messages:
        raise RowError(f"{field}: is an empty list")
    if any(_is_pair(turn) for turn in messages):
        messages = list(_turns_of_pairs(messages, field))
    made = [_message(message, field, number) for number, message in enumerate(messages, 1)]
    if made[0]["role"] == "system" and not made[0]["content"].strip() and len(made) > 1:
        return made[1:]  # an empty system prompt is none
    return made


def structured(value: Any) -> Any:
    """A list or object from its JSON (or Python's own form, as pandas writes it into CSV); other values unchanged."""
    if type(value) is str and value[:1] in "[{" and value[-1:] in "]}" and value:
        for read in (parsed, ast.literal_eval):
            try:
                found = read(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if type(found) in (list, dict) and not too_deep(found):
                return found
    return value


def conversation_in(value: Any) -> Any:
    """The messages that a text holds as JSON; any other value, a text that is other JSON among them, unchanged."""
    if type(value) is str and value[:1] in "[{" and "content" in value:
        found = structured(value)
        turns = found.get("messages") if type(found) is dict else found
        if type(turns) is list and turns and all(map(_is_whole, turns)):
            return found
    return value


def _is_whole(turn: Any) -> bool:
    return type(turn) is dict and "content" in turn and type(turn.get("role")) is str and turn["role"].lower() in ROLES


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages (or of turns as pairs)."""
    return (
        type(value) is list
        and bool(value)
        and all(type(item) is dict and ("role" in item or "from" in item or _is_pair(item)) for item in value)
    )


def _is_pair(turn: Any) -> bool:
    if type(turn) is list:
        return len(turn) == 2 and all(type(side) is str for side in turn)
    if type(turn) is not dict or "role" in turn or "from" in turn:
        return False
    return any(name in turn for name in ASKED) or any(name in turn for name in ANSWERED)


def _turns_of_pairs(turns: list[Any], field: str) -> Iterator[Message]:
    """Messages of turns with a question and its answer: ``{human, assistant}``, ``{system, input, output}``, [q, a]."""
    for number, turn in enumerate(turns, 1):
        if not _is_pair(turn):
            raise RowError(f"{field}: turn {number} is {_kind(turn)}, expected a question with its answer")
        if type(turn) is list:
            turn = {"user": turn[0], "assistant": turn[1]}
        others = [
            key for key, value in turn.items() if key not in (*ASKED, *ANSWERED, "system") and value not in (None, "")
        ]
        asked = [turn[key] for key in ("instruction", *ASKED) if turn.get(key) not in (None, "")]
        asked = list(dict.fromkeys(map(str, asked)))
        answered = [turn[key] for key in ANSWERED if turn.get(key) not in (None, "")]
        if others or len(answered) > 1:
            raise RowError(f"{field}: turn {number} holds {', '.join(turn)}; expected one question and one answer")
        if turn.get("system"):
            yield {"role": "system", "content": turn["system"]}
        if asked:
            yield {"role": "user", "content": "\n".join(asked)}
        if answered:
            yield {"role": "assistant", "content": answered[0]}


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _message(message: Any, field: str, number: int) -> Message:
    if type(message) is not dict:
        raise RowError(f"{field}: message {number} is {_kind(message)}, expected {{role, content}}")
    role = message.get("role") or message.get("from")
    content = message.get("content") if "content" in message else message.get("value")
    known = ROLES.get(role) or ROLES.get(role.strip().lower()) if type(role) is str else None
    if known is None:
        raise RowError(f"{field}: message {number} has the role {role!r}; known are {', '.join(ROLES)}")
    if known == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _calls_in_text(content, field, number)}
    calls = structured(message.get("tool_calls"))
    if type(content) is list and known == "assistant":
        message, content, calls = _unfolded(message, content, calls, f"{field}: message {number}")
    if type(content) is not str:
        may_be_missing = bool(calls) or known == "tool" or bool(message.get("function_call"))
        content = _flat(content, may_be_missing, field, number)
    made = {"role": known, "content": content}
    if not message.keys() <= _TWO_KEYS:
        _add_others(made, message, calls, f"{field}: message {number}", field, number)
    return made


def _unfolded(message: Message, content: list[Any], calls: Any, where: str) -> tuple[Message, list[Any], Any]:
    """A message whose thoughts and tool calls are among the parts of its content, taken out of them."""
    thoughts = [part for part in content if type(part) is dict and part.get("type") in ("reasoning", "thinking")]
    called = [part for part in content if type(part) is dict and part.get("type") == "tool_call"]
    if not thoughts and not called:
        return message, content, calls
    if thoughts:
        parts = [{**part, "text": part.get("text", part.get("thinking"))} for part in thoughts]
        message = {**message, "reasoning_content": "".join(_part_text(part, f"{where}: thought") for part in parts)}
    found = [structured(part.get("value", part.get("tool_call"))) for part in called]
    rest = [part for part in content if not any(part is other for other in (*thoughts, *called))]
    return (
        {**message, "tool_calls": found or calls},
        rest or (None if called else [{"type": "text", "text": ""}]),
        (found or calls),
    )


_TWO_KEYS = {"role", "from", "content", "value"}


def _add_others(made: Message, message: Message, calls: Any, where: str, field: str, number: int) -> None:
    """Add names, thoughts, calls and weights to a message.

    Raises:
        RowError: If one cannot be read, or there are pictures or sounds.
    """
    for key in MEDIA:
        if message.get(key):
            raise RowError(f"{where}: holds {key}; only text is supported")
    for key in ("name", "tool_call_id"):
        if message.get(key) is not None:
            made[key] = text_of(message[key], f"{where}: {key}")
    thought = next((message[key] for key in THOUGHTS if message.get(key) not in (None, "")), None)
    if thought is not None:
        made["reasoning_content"] = text_of(thought, f"{where}: reasoning_content")
    if calls:
        if type(calls) is not list:
            raise RowError(f"{where}: tool_calls: holds {_kind(calls)}, expected a list")
        made["tool_calls"] = [_call(call, field, number) for call in calls]
    elif message.get("function_call"):  # OpenAI's older form
        made["tool_calls"] = _calls_in_text(message["function_call"], field, number)
    weight = next(((key, message[key]) for key in WEIGHTS if message.get(key) is not None), None)
    if weight and made["role"] == "assistant":
        made["weight"] = weight_of(weight[1], f"{where}: {weight[0]}")


def weight_of(value: Any, field: str) -> int:
    """0 (shown but not learnt) or 1.

    Raises:
        RowError: If it is another number, or none.
    """
    if type(value) is str and value.strip().lower() in ("true", "false", "0", "1", "0.0", "1.0"):
        value = value.strip().lower() in ("true", "1", "1.0")
    if isinstance(value, bool | int | float) and value in (0, 1):
        return int(value)
    raise RowError(f"{field}: is {value!r}; a turn is learnt (1, true) or not (0, false)")


def unused_keys(messages: Any) -> set[str]:
    """Keys of messages that have no place in the result and hold something."""
    messages = structured(messages)
    if type(messages) is not list or any(_is_pair(message) for message in messages):
        return set()
    return {
        key
        for message in messages
        if type(message) is dict
        for key, value in message.items()
        if key not in KNOWN_KEYS and value not in (None, "", [], {})
    }


def _flat(content: Any, may_be_missing: bool, field: str, number: int) -> str:
    """The text of a content that is a list of parts, as in the OpenAI form."""
    if content is None and may_be_missing:
        return ""
    if type(content) is list:
        kinds = {part.get("type") if type(part) is dict else _kind(part) for part in content}
        if kinds <= {"text"}:
            return "".join(_part_text(part, f"{field}: message {number}: text") for part in content)
        others = ", ".join(sorted(str(kind) for kind in kinds - {"text"}))
        raise RowError(f"{field}: message {number} has parts of the kind {others}; only text is supported")
    if isinstance(content, int | float) and not isinstance(content, bool):
        return str(content)
    raise RowError(f"{field}: message {number} has the content {_kind(content)}, expected a text")


def _part_text(part: dict[str, Any], field: str) -> str:
    """The text of a part: under ``text``, or under ``value`` or ``content`` as other tools write it."""
    value = next((part[key] for key in ("text", "value", "content") if part.get(key) is not None), None)
    return value if type(value) is str else text_of(value, field)


def _call(call: Any, field: str, number: int) -> dict[str, Any]:
    """One tool call as ``{type, function: {name, arguments}}``, its arguments as an object."""
    function = call.get("function", call) if type(call) is dict else None
    if type(function) is not dict or type(function.get("name")) is not str:
        raise RowError(f"{field}: message {number}: a tool call needs function.name and function.arguments")
    arguments = function.get("arguments", function.get("parameters"))
    for _ in range(2):  # some files hold arguments that were encoded twice
        if type(arguments) is not str:
            break
        try:
            arguments = parsed(arguments or "{}")
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
            content = parsed(content)
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
            value = parsed(value)
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
