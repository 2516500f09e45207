"""A guard for the few places where the kit replaces a piece of verl: it must still be the piece we read."""

from __future__ import annotations

import inspect
from collections.abc import Callable


def expect_source(function: Callable, snippet: str, why: str) -> None:
    """Stop unless a verl function still contains the code that a patch of the kit works around.

    Args:
        function: The function or method of verl that is about to be replaced.
        snippet: A line of its source in verl 0.9.1; white space is compared as it stands.
        why: What the patch is for, one clause; ends up in the error.

    Raises:
        RuntimeError: If the source has changed, so that the patch must be read again.
    """
    if snippet in inspect.getsource(function):
        return
    raise RuntimeError(
        f"{function.__module__}.{function.__qualname__} is not the code of verl 0.9.1 any more ({why}). "
        f"Expected to find {snippet!r} in {inspect.getsourcefile(function)}. Install verl==0.9.1 (./setup_env.sh), "
        "or read that function again and renew the patch."
    )
