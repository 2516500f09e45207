"""Scores on disk, found again by the content of the request; several runs may share a file."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.rewards.api.settings import Settings

READER = 3  # grows when replies are read otherwise, so that no score of an older reader comes back

logger = logging.getLogger(__name__)


def content_key(settings: Settings, body: Mapping[str, Any]) -> str:
    """A hash of all that decides a score: endpoint, headers, request, how it is read. The API key is not part of it."""
    criteria = [[one.name, one.low, one.high, one.pattern, one.path] for one in settings.criteria]
    asked = [settings.url, dict(settings.headers), settings.structured, body]
    text = json.dumps([READER, *asked, criteria], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class ScoreCache:
    """Key -> scores, in memory and in an SQLite file.

    Args:
        path: The file; empty keeps the scores in memory only. One that is not a database is moved aside.
    """

    def __init__(self, path: str):
        self._memory: dict[str, dict[str, float]] = {}
        self._file = self._open(Path(path)) if path else None

    def _open(self, path: Path) -> sqlite3.Connection:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _connect(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, read-only, full: not the file's content
                raise
            broken = path.with_name(path.name + ".broken")
            logger.warning("the cache %s is not a database (%s); moved to %s, a new one starts", path, error, broken)
            path.replace(broken)
            return _connect(path)

    def get(self, key: str) -> dict[str, float] | None:
        """The scores of a request seen before, or None."""
        if key in self._memory:
            return self._memory[key]
        if self._file is None:
            return None
        try:
            row = self._file.execute("SELECT scores FROM scores WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            logger.warning("the cache was not read, the answer is scored again: %s", error)
            return None
        if row is None:
            return None
        scores = _checked(row[0])
        if scores is not None:
            self._memory[key] = scores
        return scores

    def put(self, key: str, scores: dict[str, float]) -> None:
        """Remember scores; a disk that is full costs the cache and not the run."""
        self._memory[key] = scores
        if self._file is None:
            return
        try:
            self._file.execute("INSERT OR REPLACE INTO scores VALUES (?, ?)", (key, json.dumps(scores)))
        except sqlite3.Error as error:
            logger.warning("a score was not written to the cache: %s", error)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _checked(text: object) -> dict[str, float] | None:
    """The scores of a row; None when it is damaged or not one of ours, and the answer is scored again."""
    try:
        scores = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    if not isinstance(scores, dict) or not scores:
        return None
    numbers = [value for value in scores.values() if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return scores if len(numbers) == len(scores) and all(0 <= value <= 1 for value in numbers) else None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, scores TEXT NOT NULL)")
    return connection
