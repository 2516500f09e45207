"""The files of a set, from a hub or a local copy, as questions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.data import hub as hubs
from common.data.messages import RowError
from common.data.readers.files import KINDS, DataError
from common.data.readers.records import Record, read_records
from common.evaluation.questions import Question, file_digest
from common.evaluation.settings import EvaluationError
from common.evaluation.suites.catalog import Bench
from common.evaluation.suites.rows import read_item

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Loaded:
    """A set that was read.

    Args:
        bench: Which.
        questions: Its rows.
        files: They came from.
        came_from: Hub, id and commit, or the local files.
        digest: Of the files and of the prompt.
        notes: What a reader should know.
        texts: Of each row, the question without what every prompt of the set says.
    """

    bench: Bench
    questions: list[Question]
    files: list[Path]
    came_from: str
    digest: str
    notes: list[str]
    texts: list[str]


def load(bench: Bench, data: Path | None, hub: str = "huggingface", limit: int | None = None) -> Loaded:
    """Read a set.

    Args:
        bench: Which.
        data: Folder with local copies: ``NAME.jsonl`` (or another kind) or a folder ``NAME`` of each set; None fetches.
        hub: Where from.
        limit: Only the first rows.

    Raises:
        EvaluationError: If it is not there, or has no rows.
    """
    try:
        files, came_from = _local(bench, data) if data else _fetched(bench, hub)
        questions, texts = [], []
        for file, record in _records(files):
            if limit is not None and len(questions) >= limit:
                break
            question, text = _question(bench, record, len(questions), _subject(file, files))
            questions.append(question)
            texts.append(text)
    except (DataError, OSError) as error:
        raise EvaluationError(f"--suite {bench.name}: {error}") from error
    if not any(question.problem is None for question in questions):
        said = questions[0].problem if questions else "it has no rows"
        raise EvaluationError(f"--suite {bench.name}: {files[0]}: {said}")
    notes = [bench.note] if bench.note else []
    if limit is None and bench.rows and len(questions) != bench.rows:
        notes.append(f"{len(questions):,} rows here, the set has {bench.rows:,}")
    digests = [file_digest(file) for file in files]
    digest = hashlib.sha256(" ".join([*digests, bench.prompt, bench.name]).encode()).hexdigest()
    return Loaded(bench, questions, files, came_from, digest, notes, texts)


def _question(bench: Bench, record: Record, number: int, subject: str) -> tuple[Question, str]:
    """A row, and its question alone."""
    question = Question(number, record.place, id=number + 1, data_source=bench.name)
    try:
        if record.row is None:
            raise RowError(record.problem or "cannot be read")
        item = read_item(bench.name, record.row, number, subject)
    except RowError as error:
        question.problem = str(error)
        return question, ""
    question.messages = [{"role": "user", "content": bench.prompt.format(**item.fields)}]
    question.ground_truth, question.ability = item.truth, item.group
    question.id = number + 1 if item.id is None else item.id
    return question, "\n".join(item.fields[name] for name in ("question", "options") if name in item.fields)


def _records(files: list[Path]) -> Iterator[tuple[Path, Record]]:
    for file in files:
        for record in read_records(file):
            yield file, record


def _subject(file: Path, files: list[Path]) -> str:
    """What a file of several is about: its folder where those differ, else its name."""
    if len(files) == 1:
        return ""
    folders = {path.parent for path in files}
    if len(folders) == 1:
        return file.name.split(".")[0]
    part = file.parent
    return (part.parent if part.name in ("test", "val", "validation") else part).name


def _local(bench: Bench, data: Path) -> tuple[list[Path], str]:
    if not data.is_dir():
        raise EvaluationError(f"--data {data}: no such folder")
    folder = data / bench.name
    if folder.is_dir():
        files = hubs.split_files(folder, bench.split, bench.subset)
    else:
        files = [file for file in sorted(data.iterdir()) if _names(file, bench.name)]
        if not files:
            raise EvaluationError(
                f"--data {data}: neither a folder {bench.name} nor a file {bench.name}.jsonl is in it, for "
                f"{bench.title} ({bench.hugging_face} on Hugging Face, split {bench.split}); name the sets that are "
                "there, e.g. --suite gsm8k,math500"
            )
        files = files[:1]
    return files, f"local: {', '.join(str(file) for file in files[:3])}{' ...' * (len(files) > 3)}"


def _names(file: Path, name: str) -> bool:
    stem, _, kind = file.name.removesuffix(".gz").partition(".")
    return file.is_file() and stem == name and f".{kind}".lower() in KINDS


def _fetched(bench: Bench, hub: str) -> tuple[list[Path], str]:
    name = bench.hugging_face if hub == "huggingface" else bench.modelscope
    if name is None:
        raise EvaluationError(
            f"--suite {bench.name}: is not on {hub}; fetch it elsewhere and give the folder, --data DIR"
        )
    revision = bench.revision if hub == "huggingface" else None
    folder = hubs.download_data(name, hub, revision)
    commit = folder.name if COMMIT.fullmatch(folder.name) else revision or "newest"
    return hubs.split_files(folder, bench.split, bench.subset), f"{hub}: {name} at {commit}"
