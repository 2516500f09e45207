"""The body of a request to ``/v1/chat/completions`` or ``/v1/completions``, checked.

A field that would change the answer and is not known here is refused by name: an answer that ignores it looks right.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from common.data.messages import Message
from common.hf_engine.sampling import SamplingParams

MOST_TOP = 20  # log-probabilities of each place, as in OpenAI's API
MOST_CHOICES = 128
LEGACY_MAX_TOKENS = 16  # of /v1/completions, OpenAI's default
ROLES = ("system", "developer", "user", "assistant", "tool")
# Without effect on the answer.
IGNORED = {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key"}
# Known elsewhere, not here: name -> values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "web_search_options": (),
}
COMMON = {"model", "n", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stream", "stream_options"}
CHAT = COMMON | {"messages", "max_completion_tokens", "logprobs", "top_logprobs", "chat_template_kwargs"}
PLAIN = COMMON | {"prompt", "logprobs"}


class Refused(ValueError):
    """A request that cannot be answered.

    Args:
        message: What is wrong, and what to do.
        param: The field.
        status: HTTP status.
        code: For programs.
    """

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


@dataclass(frozen=True)
class Wanted:
    """What a request asks for.

    Args:
        model: Name.
        prompts: Of a chat one conversation; else texts or lists of token ids.
        is_chat: Which route.
        n: Answers to each prompt.
        temperature: 0 is greedy.
        top_p: In (0, 1].
        top_k: -1 keeps all.
        max_tokens: Of an answer; None: what the server gives.
        seed: Of the first answer; the others count on.
        stop: Texts that end an answer.
        top: Log-probabilities of each place beside the token's own; None: none at all.
        stream: Pieces as they come.
        usage: Streamed: a last piece with the counts.
        thinking: ``enable_thinking`` of the chat template; None leaves it alone.
    """

    model: str
    prompts: list[Any]
    is_chat: bool
    n: int
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int | None
    seed: int
    stop: tuple[str, ...]
    top: int | None
    stream: bool
    usage: bool
    thinking: bool | None

    def params(self, index: int) -> SamplingParams:
        """Sampling of one of the answers, each with a random generator of its own."""
        return SamplingParams(self.temperature, self.top_p, self.top_k, seed=(self.seed + index) % 2**63)


def read_wanted(body: Any, is_chat: bool) -> Wanted:
    """Check a body.

    Raises:
        Refused: If a field is wrong, missing, or not available here.
    """
    if not isinstance(body, dict):
        raise Refused("the body must be a JSON object")
    body = {name: value for name, value in body.items() if value is not None}
    _refuse_unknown(body, CHAT if is_chat else PLAIN)
    length = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    options = body.get("stream_options", {})
    if not isinstance(options, dict):
        raise Refused("stream_options: expected an object", "stream_options")
    return Wanted(
        model=_one(body, "model", str, ""),
        prompts=[_messages(body.get("messages"))] if is_chat else _prompts(body.get("prompt")),
        is_chat=is_chat,
        n=_number(body, "n", 1, 1, MOST_CHOICES),
        temperature=_number(body, "temperature", 1.0, 0, 100, float),
        top_p=_top_p(body),
        top_k=_number(body, "top_k", -1, -1),
        max_tokens=_number(body, length, None if is_chat else LEGACY_MAX_TOKENS, 1),
        seed=_number(body, "seed", secrets.randbits(31), -(2**63), 2**64) % 2**63,
        stop=_stop(body.get("stop", ())),
        top=_top(body, is_chat),
        stream=_one(body, "stream", bool, False),
        usage=_one(options, "include_usage", bool, False),
        thinking=_thinking(body.get("chat_template_kwargs", {})),
    )


def _refuse_unknown(body: dict[str, Any], known: set[str]) -> None:
    for name, value in body.items():
        if name in known or name in IGNORED or value in NEUTRAL.get(name, ()):
            continue
        if name in NEUTRAL:
            message = (
                f"{name} is not available with the transformers engine; leave it out, or serve with vLLM or SGLang"
            )
            raise Refused(message, name)
        raise Refused(f"{name}: there is no such field here; known are {', '.join(sorted(known))}", name)


def _one(body: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = body.get(name, default)
    if not isinstance(value, kind):
        raise Refused(f"{name}: expected {kind.__name__}, not {value!r:.100}", name)
    return value


def _number(body: dict[str, Any], name: str, default: Any, least: float, most: float = 2**31, kind: type = int) -> Any:
    value = body.get(name, default)
    if value is default:
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or (kind is int and value != int(value)):
        raise Refused(f"{name}: must be {'a whole number' * (kind is int)} from {least} to {most}, not {value!r}", name)
    return kind(value)


def _top_p(body: dict[str, Any]) -> float:
    value = _number(body, "top_p", 1.0, 0, 1, float)
    if value == 0:
        raise Refused("top_p: must be above 0; for the most likely token always set temperature to 0", "top_p")
    return value


def _top(body: dict[str, Any], is_chat: bool) -> int | None:
    """Number of log-probabilities of each place; the two routes ask for them in different ways."""
    if not is_chat:
        return _number(body, "logprobs", None, 0, MOST_TOP)
    if not _one(body, "logprobs", bool, False):
        if "top_logprobs" in body:
            raise Refused("top_logprobs: set logprobs to true too", "top_logprobs")
        return None
    return _number(body, "top_logprobs", 0, 0, MOST_TOP)


def _stop(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise Refused("stop: expected a text or a list of texts, none empty", "stop")
    return tuple(texts)


def _thinking(value: Any) -> bool | None:
    if not isinstance(value, dict) or set(value) - {"enable_thinking"}:
        raise Refused("chat_template_kwargs: only enable_thinking is known", "chat_template_kwargs")
    thinking = value.get("enable_thinking")
    if thinking is not None and not isinstance(thinking, bool):
        raise Refused("chat_template_kwargs: enable_thinking must be true or false", "chat_template_kwargs")
    return thinking


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise Refused("messages: expected a list with at least one message", "messages")
    return [_message(number, message) for number, message in enumerate(value)]


def _message(number: int, message: Any) -> Message:
    place = f"messages[{number}]"
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise Refused(f"{place}: expected an object whose role is one of {', '.join(ROLES)}", "messages")
    if message.get("tool_calls"):
        raise Refused(f"{place}: tool_calls are not available with the transformers engine", "messages")
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise Refused(f"{place}: only parts with text are taken, no images and no sound", "messages")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise Refused(f"{place}: content must be a text", "messages")
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": content}


def _prompts(value: Any) -> list[str | list[int]]:
    """A text, token ids, or a list of either."""
    if isinstance(value, str) or _is_ids(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise Refused("prompt: expected a text, a list of token ids, or a list of either", "prompt")
    if not all(isinstance(one, str) or _is_ids(one) for one in value) or len(value) > MOST_CHOICES:
        raise Refused(f"prompt: expected texts or lists of token ids, at most {MOST_CHOICES}", "prompt")
    return value


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int and one >= 0 for one in value)
