"""A console that cannot end a run: when nobody reads any more, it goes quiet."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from typing import Any

from rich.console import Console


class QuietConsole(Console):
    """rich's console on standard output; once that is gone (``| head``, a closed terminal, a full disk), on nothing."""

    def __init__(self, **options: Any):
        super().__init__(**options, **({"file": io.StringIO()} if sys.stdout is None else {}))  # started with >&-

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, or go quiet."""
        self._tolerant(super().print, *objects, **options)

    def out(self, *objects: Any, **options: Any) -> None:
        """Print without markup, or go quiet."""
        self._tolerant(super().out, *objects, **options)

    def on_broken_pipe(self) -> None:
        """Rich would exit with status 1 here."""
        self.go_quiet()

    def _tolerant(self, write: Any, *objects: Any, **options: Any) -> None:
        try:
            write(*objects, **options)
        except (OSError, ValueError, UnicodeError):  # ValueError: the stream is closed
            self.go_quiet()

    def go_quiet(self) -> None:
        """Show no more. What Python would still flush to standard output at its end goes nowhere either."""
        if self.quiet:
            return
        self.quiet = True
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


_COLOURS = re.compile(r"\x1b\[[0-9;]{0,20}m")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def without_controls(text: str) -> str:
    """A text without colours; other control characters, which could write to the clipboard, become a mark."""
    return _CONTROLS.sub("\ufffd", _COLOURS.sub("", text))
