"""What is asked about an answer, and the score in the reply."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppo.api.settings import Criterion, Settings

PLACEHOLDER = re.compile(r"\{(prompt|answer|ground_truth|data_source|messages)\}")
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
SHOWN = 160  # characters of a reply in an error
LONGEST_REPLY = 20_000  # characters of a judge's reply that are searched for the score


class BadReplyError(Exception):
    """A reply that holds no score: not JSON, another shape, no number, a number out of range."""


@dataclass(frozen=True)
class Usage:
    """Tokens that the endpoint says it has counted; 0 when it does not say."""

    tokens_in: int = 0
    tokens_out: int = 0


def build_request(settings: Settings, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON body that asks for the score of one answer.

    Args:
        settings: Of the endpoint.
        values: ``prompt`` (text), ``messages`` (the same as a list), ``answer``, ``ground_truth``, ``data_source``.
    """
    if settings.kind == "service":
        return fill(settings.request, values)
    messages = [{"role": "system", "content": settings.system}] if settings.system else []
    messages.append({"role": "user", "content": fill(settings.prompt, values)})
    return {"model": settings.model, "messages": messages, **settings.options}


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """Put values in the place of ``{answer}`` and the like; a text that is one placeholder becomes the value itself.

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
        return values[whole[1]]
    return PLACEHOLDER.sub(lambda match: _text(values[match[1]]), template)


def prompt_text(messages: Any) -> str:
    """A conversation as text: the words alone when there is one message, else with the role before each."""
    if isinstance(messages, str):
        return messages
    if not messages:
        return ""
    turns = [(message.get("role", ""), _text(message.get("content", ""))) for message in messages]
    return turns[0][1] if len(turns) == 1 else "\n\n".join(f"[{role}]\n{text}" for role, text in turns)


def read_scores(settings: Settings, body: str) -> tuple[dict[str, float], Usage]:
    """Return the scores in a reply, each scaled to 0..1.

    Raises:
        BadReplyError: If one is missing or out of its range. None is guessed, cut to the range or filled in.
    """
    try:
        reply = json.loads(body)
    except ValueError as error:
        kind = "an HTML page" if body.lstrip()[:1] == "<" else "no whole JSON"
        raise BadReplyError(f"the reply is {kind}: {_short(body)}") from error
    if settings.kind == "service":
        found = {criterion.name: _at(reply, criterion.path) for criterion in settings.criteria}
    else:
        text = judge_text(reply)
        found = {criterion.name: _match(text, criterion) for criterion in settings.criteria}
    scores = {criterion.name: _scale(found[criterion.name], criterion) for criterion in settings.criteria}
    return scores, _usage(reply)


def judge_text(reply: Any) -> str:
    """The words of a judge in a chat completion."""
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise BadReplyError(f"the reply is no chat completion: {_short(json.dumps(reply))}") from None
    if not isinstance(text, str):
        raise BadReplyError(f"the judge said nothing: {_short(json.dumps(reply))}")
    return text[-LONGEST_REPLY:]


def total(scores: Mapping[str, float], criteria: tuple[Criterion, ...]) -> float:
    """The weighted mean of the criteria."""
    weights = sum(criterion.weight for criterion in criteria)
    return sum(scores[criterion.name] * criterion.weight for criterion in criteria) / weights


def _match(text: str, criterion: Criterion) -> str:
    found = re.findall(criterion.pattern, text)
    if not found:
        raise BadReplyError(f"{criterion.name}: no {criterion.pattern!r} in the judge's words: {_short(text)}")
    return found[-1] if isinstance(found[-1], str) else found[-1][0]


def _at(reply: Any, path: str) -> Any:
    node = reply
    for part in path.split("."):
        try:
            node = node[int(part)] if isinstance(node, list) else node[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise BadReplyError(f"the reply has no {path} (stopped at {part!r}): {_short(json.dumps(reply))}") from None
    return node


def _scale(value: Any, criterion: Criterion) -> float:
    text = value.strip() if isinstance(value, str) else value
    usable = isinstance(text, (int, float)) and not isinstance(text, bool)
    usable = usable or (isinstance(text, str) and NUMBER.fullmatch(text) is not None)
    number = float(text) if usable else math.nan
    if not math.isfinite(number):
        raise BadReplyError(f"{criterion.name}: {_short(str(value))!r} is no number")
    if not criterion.low <= number <= criterion.high:
        raise BadReplyError(f"{criterion.name}: {number:g} is not between {criterion.low:g} and {criterion.high:g}")
    return (number - criterion.low) / (criterion.high - criterion.low)


def _usage(reply: Any) -> Usage:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    if not isinstance(usage, dict):
        return Usage()
    counts = (usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
    return Usage(*(count if isinstance(count, int) and count >= 0 else 0 for count in counts))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
