"""What a person reads: the knobs as resolved, warnings, errors."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from common.preflight.knobs import Knobs


def show(knobs: Knobs) -> None:
    """Print the resolved knobs with their reasons, then the warnings, then every error, to stderr."""
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    if not knobs.errors:
        for name, reason in knobs.reasons.items():
            console.print(Text(f"  {name}=auto -> {knobs[name]}", style="default").append(f"  ({reason})", style="dim"))
    for warning in knobs.warnings:
        console.print(Text("note: ", style="yellow").append(warning, style="default"))
    for error in knobs.errors:
        console.print(Text("error: ", style="bold red").append(error, style="default"))
    if knobs.errors:
        count = len(knobs.errors)
        console.print(f"{count} error{'s' if count > 1 else ''}; nothing was started, nothing was written.")
