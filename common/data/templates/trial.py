"""A chat template tried once, in a process that can be killed, before the rows of a launch are rendered with it.

Jinja's sandbox keeps a template from files and from Python, and limits neither time nor memory: two nested loops, or
``'x' * 10**9``, would hang the launch silently.
"""

from __future__ import annotations

from functools import cache

from common.data.turns import RenderError
from common.worker import Worker, WorkerDied

LIMIT_S = 20.0
FIX = "use the chat template of the model's own publisher"


class DangerousTemplate(RenderError):
    """A chat template that takes too long or too much memory."""


def check_template(source: str, **tokens: str) -> None:
    """Try a chat template on some words.

    Args:
        source: In Jinja.
        tokens: The special tokens by their names (``bos_token`` ...).

    Raises:
        DangerousTemplate: If it takes longer than ``LIMIT_S``, more memory than ``template_child.ROOM``, or writes
            more than ``template_child.LONGEST`` characters.
    """
    if found := _problem(source, tuple(sorted(tokens.items()))):
        raise DangerousTemplate(found)


@cache
def _problem(source: str, tokens: tuple[tuple[str, str], ...]) -> str:
    worker = Worker("common.data.templates.child")
    try:
        return worker.ask((source, dict(tokens)), LIMIT_S)
    except TimeoutError:
        return f"the chat template takes longer than {LIMIT_S:g} s for some words"
    except WorkerDied as error:
        return f"the chat template cannot be tried: {error}"
    finally:
        worker.stop()
