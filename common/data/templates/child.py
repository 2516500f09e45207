"""The process that tries a chat template for ``common.data.templates.trial``."""

from __future__ import annotations

import resource
from collections.abc import Callable

from jinja2 import TemplateError

from common.data.templates.environment import environment
from common.worker import address_space, serve

ROOM = 256 * 2**20  # bytes of address space, in addition to what the imports take
LONGEST = 2**20  # characters that a template may write for some words; known ones write 10,000 at most
USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
TALKS = ([USER], [USER, ANSWER], [{"role": "system", "content": "c"}, USER, ANSWER, USER])
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


def prepare() -> Callable[[tuple[str, dict[str, str]]], str]:
    """What answers a template's source and its special tokens with what is wrong with it, "" for nothing."""
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + ROOM, resource.RLIM_INFINITY))
    return problem


def problem(question: tuple[str, dict[str, str]]) -> str:
    """What makes a template dangerous; one that only refuses a conversation is not."""
    source, tokens = question
    try:
        template = environment().from_string(source)
        for messages in TALKS:
            for options in ({"add_generation_prompt": True}, {"tools": [TOOL]}):
                try:
                    text = template.render(messages=messages, **{**tokens, **options})
                except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError):
                    continue  # each row that it refuses is named later
                if len(text) > LONGEST:
                    return f"the chat template writes {len(text):,} characters for {len(messages)} words"
    except MemoryError:
        return f"the chat template needs more than {ROOM // 2**20:,} MiB for some words"
    except RecursionError:
        return "the chat template is nested too deeply"
    except TemplateError:  # said by ``renderer_of``
        return ""
    return ""


if __name__ == "__main__":
    serve(prepare)
