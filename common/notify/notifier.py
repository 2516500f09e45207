"""What a run tells: each kind of event once, with the words that a person on a phone needs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from common.files import write_atomically
from common.notify.secrets import without_secrets
from common.notify.send import LEVEL, LEVELS, addresses, start

SENT_FILE = "notified.json"  # of a run: which events were sent, and when
END_SECONDS = 4.0  # that the end of a run waits for messages under way; they continue without it
BEST_SECONDS = 600.0  # between two messages of a best score
LONGEST = 1500  # characters of a message


class Notifier:
    """Tells the events of a run.

    Args:
        run_dir: Its folder.
        environment: With ``NOTIFY_URLS``, by default the process's; without them nothing is ever sent.
        label: Words before the title, such as the algorithm.
    """

    def __init__(self, run_dir: Path, environment: Mapping[str, str] | None = None, label: str = ""):
        environment = os.environ if environment is None else environment
        self.run_dir, self.environment = run_dir, environment
        self.label = f"{label} " if label else ""
        folders = run_dir.parts[-3:] if environment.get("STAGE") else run_dir.parts[-1:]  # a stage is <run>/round-1/rl
        self.name = "/".join(folders)
        level = environment.get(LEVEL, "info")
        self.least = LEVELS.index(level) if level in LEVELS else 0
        self.on = bool(addresses(environment))
        self.under_way: list[subprocess.Popen] = []
        self.last_best = -BEST_SECONDS

    def tell(self, kind: str, what: str, body: str, level: str = "info") -> bool:
        """Send a message unless one of this kind was sent for this run, in any attempt; never waits, never raises.

        Args:
            kind: Kind of the event, such as ``warning:entropy``.
            what: Title behind the run's name.
            body: Lines of the message.
            level: ``info``, ``warn`` or ``error``.
        """
        if not self.on or LEVELS.index(level) < self.least:
            return False
        with contextlib.suppress(OSError, ValueError):
            sent = self._sent()
            if kind in sent:
                return False
            write_atomically(self.run_dir / SENT_FILE, json.dumps({**sent, kind: time.time()}, indent=2) + "\n")
            title = f"{self.label}{self.name}: {what}"
            texts = [without_secrets(text, self.environment)[:LONGEST] for text in (title, body)]
            self.under_way = [process for process in self.under_way if process.poll() is None]
            self.under_way.append(start(*texts, level, self.environment))
            return True
        return False

    def warning(self, name: str, text: str) -> None:
        """A health rule is broken for the first time."""
        self.tell(f"warning:{name}", "warning", text, "warn")

    def best(self, step: int, words: str, score: float) -> None:
        """A validation was better than all before; not oftener than every ten minutes."""
        if time.monotonic() - self.last_best >= BEST_SECONDS and self.tell(
            f"best:{step}", f"best {words} {score:.4g}", f"at step {step}"
        ):
            self.last_best = time.monotonic()

    def close(self) -> list[str]:
        """Wait a moment for messages under way; returns what a person should know, without an address in it."""
        until = time.monotonic() + END_SECONDS
        problems = set()
        for process in self.under_way:
            try:
                if process.wait(max(0.0, until - time.monotonic())):
                    problems.add("a message of NOTIFY_URLS was not taken; see python -m common.notify try")
            except subprocess.TimeoutExpired:
                problems.add("a message of NOTIFY_URLS is still under way")
        self.under_way = []
        return sorted(problems)

    def _sent(self) -> dict[str, float]:
        path = self.run_dir / SENT_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
