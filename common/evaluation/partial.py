"""Answers and scores on disk while an evaluation runs, so that a kill loses nothing and the same command resumes.

One JSONL file next to the output, named after what decides the answers. A line is an answer, or a score of one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from common.evaluation.engines.engine import Answer
from common.evaluation.settings import EvaluationError

Key = tuple[int, int]  # row, sample


def fingerprint(parts: Any) -> str:
    """Twelve letters that are the same when all that decides the answers is the same."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Partial:
    """The file of one evaluation of one model.

    Args:
        folder: Where it is.
        name: Fingerprint of the evaluation.

    Raises:
        EvaluationError: If another process works on the same one.
    """

    def __init__(self, folder: Path, name: str):
        self.path = folder / f".{name}.partial.jsonl"
        self.answers: dict[Key, Answer] = {}
        self.scores: dict[tuple[Key, str], dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._stream = self.path.open("a+b", buffering=0)  # a line is in the file, or an error is known
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.close()
            raise EvaluationError(
                f"{self.path}: another test.sh is at work on the same model, file and settings; wait for it"
            ) from None
        self._read()

    def _read(self) -> None:
        """Take in what an earlier process left, but for lines that a kill or a full disk tore."""
        whole = 0
        for line in _whole_lines(self.path):
            whole += len(line)
            try:
                entry = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            key = entry["row"], entry["sample"]
            if "score" in entry:
                self.scores[key, entry["reward"]] = entry["score"]
            else:
                self.answers[key] = Answer(**entry)
        self._stream.truncate(whole)
        self._stream.seek(0, 2)

    def add_answer(self, answer: Answer) -> None:
        """Keep an answer."""
        self.answers[answer.row, answer.sample] = answer
        self._write(asdict(answer))

    def add_score(self, key: Key, reward: str, score: dict[str, Any]) -> None:
        """Keep the score that a reward gave."""
        self.scores[key, reward] = score
        self._write({"row": key[0], "sample": key[1], "reward": reward, "score": score})

    def _write(self, entry: dict[str, Any]) -> None:
        line = orjson.dumps(_storable(entry), option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
        try:
            with self._lock:
                if self._stream.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise EvaluationError(
                f"{self.path}: cannot be written: {error.strerror}. Answers before this one are kept; make room, and "
                "the same command resumes"
            ) from error

    def clear(self) -> None:
        """Forget what is there."""
        self._stream.truncate(0)
        self.answers.clear()
        self.scores.clear()

    def keep_only(self, keys: Iterable[Key]) -> None:
        """Leave out, in memory, answers that are not asked for this time (a smaller ``--limit``)."""
        asked = set(keys)
        self.answers = {key: answer for key, answer in self.answers.items() if key in asked}

    def close(self) -> None:
        """Close the file and keep it, if there is anything in it."""
        if not self._stream.closed and self.path.exists() and not self.path.stat().st_size:
            self.path.unlink()
        self._stream.close()

    def remove(self) -> None:
        """The output is in its place, so the file goes."""
        self.path.unlink(missing_ok=True)
        self._stream.close()


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield line


def _storable(value: Any) -> Any:
    """Texts without halves of surrogate pairs, which UTF-8 cannot hold."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {str(key): _storable(item) for key, item in value.items()}
    return value
