"""Progress of an evaluation: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.evaluation.engines.engine import Meter

LINE_SECONDS = 15.0  # between lines without a terminal
REFRESH_SECONDS = 0.2


class Bar:
    """Answers done of all, tokens a second, accuracy so far.

    Args:
        console: Where it is shown.
        title: Name of the model.
        total: Answers to generate.
        done: Answers that were there already.
    """

    def __init__(self, console: Console, title: str, total: int, done: int):
        self.console, self.title, self.total, self.done = console, title, total, done
        self.values = 0.0
        self.valued = 0
        self.meter: Meter | None = None
        self.last = time.monotonic()
        self.bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self.bar = Progress(*columns, TextColumn("{task.fields[facts]}"), TimeRemainingColumn(), console=console)
            self.task = self.bar.add_task(escape(title), total=total, completed=done, facts="")

    def __enter__(self) -> Bar:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.bar is not None:
            self._refresh()
            self.bar.stop()

    def answered(self) -> None:
        """Count an answer."""
        self.done += 1
        self.tick()

    def scored(self, value: float | None) -> None:
        """Count a score."""
        if value is not None:
            self.values += value
            self.valued += 1

    def facts(self) -> str:
        """Tokens a second and accuracy so far."""
        parts = []
        if self.meter is not None and self.meter.seconds > 0:
            parts.append(f"{self.meter.tokens / self.meter.seconds:,.0f} tokens/s")
        if self.valued:
            parts.append(f"accuracy {self.values / self.valued:.3f}")
        return " | ".join(parts)

    def tick(self) -> None:
        """Show the present state, if it is time."""
        now = time.monotonic()
        if now - self.last < (REFRESH_SECONDS if self.bar is not None else LINE_SECONDS):
            return
        self.last = now
        if self.bar is not None:
            self._refresh()
        else:
            self.console.print(f"{self.title}: {self.done:,}/{self.total:,} answers | {self.facts()}", markup=False)

    def _refresh(self) -> None:
        self.bar.update(self.task, completed=self.done, facts=self.facts())
