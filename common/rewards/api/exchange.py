"""What is asked about an answer, and the score in the reply."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.rewards.api.settings import Criterion, Settings
from common.rewards.api.verdict import BadReplyError, read_verdict, scale, short

PLACEHOLDER = re.compile(r"\{(prompt|answer|ground_truth|data_source|messages|nonce)\}")
MOST_TOKENS = 10**9  # of a call; a larger count is a mistake of the endpoint
COMPLETE = ("", "none", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "completed", "complete")
NONCE_BYTES = 6


@dataclass(frozen=True)
class Usage:
    """Tokens that the endpoint says it has counted; 0 when it does not say."""

    tokens_in: int = 0
    tokens_out: int = 0


def build_request(settings: Settings, values: Mapping[str, Any], nonce: str | None = None) -> dict[str, Any]:
    """Return the JSON body that asks for the score of one answer.

    Args:
        settings: Of the endpoint.
        values: ``prompt`` (text), ``messages`` (the same as a list), ``answer``, ``ground_truth``, ``data_source``.
        nonce: What ``{nonce}`` becomes; a new random word when not given, so that no answer can know it.
    """
    if settings.kind == "service":
        return fill(settings.request, values)
    values = {**values, "nonce": secrets.token_hex(NONCE_BYTES) if nonce is None else nonce}
    if "{nonce}" not in settings.prompt:
        values = _without_tags(settings.prompt, values)
    messages = [{"role": "system", "content": settings.system}] if settings.system else []
    messages.append({"role": "user", "content": fill(settings.prompt, values)})
    return {"model": settings.model, "messages": messages, **settings.options}


def _without_tags(prompt: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the prompt's own closing tags broken (``< /answer>``): none may end its fence."""
    tags = set(re.findall(r"</([A-Za-z][\w-]{0,40})>", prompt))
    if not tags:
        return dict(values)
    closing = re.compile(rf"<(?=\s{{0,9}}/\s{{0,9}}(?:{'|'.join(map(re.escape, sorted(tags)))})\b)", re.IGNORECASE)
    return {key: closing.sub("< ", value) if isinstance(value, str) else value for key, value in values.items()}


def response_format(settings: Settings) -> dict[str, Any]:
    """The form that holds a judge to one number for each criterion (OpenAI's structured outputs; vLLM, SGLang)."""
    numbers = {
        one.name: {"type": "number", "description": f"from {one.low:g} to {one.high:g}"} for one in settings.criteria
    }
    schema = {"type": "object", "properties": numbers, "required": list(numbers), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """Put values in place of ``{answer}`` and the like; a text that is one placeholder becomes the value itself.

    What is filled in is not searched again, so an answer that contains ``{ground_truth}`` stays as it is.
    """
    if isinstance(template, dict):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, values) for value in template]
    if not isinstance(template, str):
        return template
    whole = PLACEHOLDER.fullmatch(template)
    if whole:
        value = values[whole[1]]
        return whole_text(value) if isinstance(value, str) else value
    return PLACEHOLDER.sub(lambda match: _text(values[match[1]]), template)


def prompt_text(messages: Any) -> str:
    """A conversation as text: the words alone when there is one message, else with the role before each."""
    if isinstance(messages, str):
        return messages
    if not messages:
        return ""
    turns = [(message.get("role", ""), _text(message.get("content", ""))) for message in messages]
    return turns[0][1] if len(turns) == 1 else "\n\n".join(f"[{role}]\n{text}" for role, text in turns)


def read_scores(settings: Settings, body: str, answer: str = "") -> tuple[dict[str, float], Usage]:
    """Return the scores in a reply, each scaled to 0..1.

    Args:
        settings: Of the endpoint.
        body: The reply.
        answer: What was judged, to tell the judge's verdict from a quotation.

    Raises:
        BadReplyError: If one is missing or out of its range. None is guessed, cut to the range or filled in.
    """
    try:
        reply = json.loads(body)
    except RecursionError:
        raise BadReplyError(f"the reply is nested too deeply: {short(body)}") from None
    except ValueError:
        kind = "an HTML page" if body.lstrip()[:1] == "<" else "no whole JSON"
        raise BadReplyError(f"the reply is {kind}: {short(body)}") from None
    if settings.kind == "service":
        scores = {one.name: scale(_at(reply, one.path, body), one) for one in settings.criteria}
    else:
        _refuse_full(settings, reply, body)
        whole = settings.structured == "on"
        scores = read_verdict(judge_text(reply, body), settings.criteria, answer, whole)
    return scores, _usage(reply)


def _refuse_full(settings: Settings, reply: Any, body: str) -> None:
    """A reply that does not say how it ended, and took all the tokens it may have, is taken as cut."""
    limit = settings.options.get("max_completion_tokens") or settings.options.get("max_tokens")
    try:
        ended = reply["choices"][0].get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return
    if not ended and isinstance(limit, int) and _usage(reply).tokens_out >= limit:
        raise BadReplyError(f"the judge took all of max_tokens={limit}, so it may be cut off: {short(body)}")


def judge_text(reply: Any, body: str) -> str:
    """The text of a judge in a chat completion that was not cut off."""
    try:
        choice = reply["choices"][0]
        text = choice["message"]["content"]
        ended = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise BadReplyError(f"the reply is not a chat completion: {short(body)}") from None
    if str(ended).lower() not in COMPLETE:
        kind = "refused" if "filter" in str(ended) else "bad_reply"
        hint = "; raise max_tokens in options" if ended == "length" else ""
        raise BadReplyError(f"the judge was cut off (finish_reason {short(str(ended))!r}{hint}): {short(body)}", kind)
    if isinstance(text, list):  # parts; a thought is a separate part
        parts = [part.get("text") for part in text if isinstance(part, dict) and part.get("type") == "text"]
        text = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(text, str) or not text.strip():
        raise BadReplyError(f"the judge said nothing: {short(body)}")
    return text


def total(scores: Mapping[str, float], criteria: tuple[Criterion, ...]) -> float:
    """The weighted mean of the criteria."""
    weights = sum(criterion.weight for criterion in criteria)
    return sum(scores[criterion.name] * criterion.weight for criterion in criteria) / weights


def _at(reply: Any, path: str, body: str) -> Any:
    node = reply
    for part in path.split("."):
        try:
            node = node[int(part)] if isinstance(node, list) else node[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise BadReplyError(f"the reply has no {path} (stopped at {part!r}): {short(body)}") from None
    return node


def _usage(reply: Any) -> Usage:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    if not isinstance(usage, dict):
        return Usage()
    counts = (usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
    return Usage(*(count if isinstance(count, int) and 0 <= count <= MOST_TOKENS else 0 for count in counts))


def _text(value: Any) -> str:
    return whole_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def whole_text(text: str) -> str:
    """The text without halves of surrogate pairs, which a tokenizer may leave and no server takes."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
