"""What the kit writes to a terminal: nothing of a file, a log or an answer acts on it, and nobody has to read it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.segment import Segment

_COLOURS = re.compile(r"\x1b\[[0-9;]{0,20}m")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def without_controls(text: str) -> str:
    """A text without colours; other control characters, which could write to the clipboard, become a mark."""
    return _CONTROLS.sub("\ufffd", _COLOURS.sub("", text))


def write_error(text: object) -> None:
    """One message on standard error, whatever a file's name or a row in it brings along."""
    print(without_controls(str(text)), file=sys.stderr, flush=True)


class SafeConsole(Console):
    """rich's console; control characters come only from rich itself, never from the texts that it shows."""

    def render(self, *renderable: Any, **options: Any) -> Iterator[Segment]:
        """As rich does, each text without control characters."""
        for segment in super().render(*renderable, **options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(without_controls(segment.text), segment.style)


class QuietConsole(SafeConsole):
    """On standard output; once that is gone (``| head``, a closed terminal, a full disk), on nothing.

    It cannot end a run.
    """

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
