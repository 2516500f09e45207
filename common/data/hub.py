"""Models and data sets from the Hugging Face hub or from ModelScope, with resume and a progress bar.

Where huggingface.co cannot be reached, set HF_ENDPOINT to a mirror, or use ModelScope (``--hub modelscope``). Tokens
come from the environment (HF_TOKEN, MODELSCOPE_API_TOKEN) or the hubs' own logins, never from an argument.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from common.data.readers.files import KINDS, DataError, kind_of
from common.data.readers.record import say_in_log

HUBS = ("huggingface", "modelscope")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DATA_PATTERNS = [f"*{kind}{packed}" for kind in KINDS for packed in ("", ".gz")]
# Weights as pickles can run code when they are loaded; the safetensors next to them hold the same.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5", "original/*", "consolidated*")


def is_hub_id(text: str) -> bool:
    """Whether a text can be the id of a model or a data set (``org/name``) and is not a path that exists."""
    return bool(HUB_ID.fullmatch(text)) and not Path(text).exists()


def download_model(model: str, target: Path, hub: str = "huggingface", revision: str | None = None) -> Path:
    """Download a model into a folder; started again, it resumes where it stopped.

    Args:
        model: Id, ``org/name``.
        target: Folder for its files.
        hub: One of ``HUBS``.
        revision: Branch, tag or commit.

    Returns:
        The folder.

    Raises:
        DataError: If the model does not exist, the hub cannot be reached, or the disk is too full.
    """
    if not HUB_ID.fullmatch(model):
        raise DataError(f"{model}: not the id of a model; give org/name, as in Qwen/Qwen3-0.6B")
    target.mkdir(parents=True, exist_ok=True)
    ignore: tuple[str, ...] = ()
    if hub == "huggingface":
        names, size = _hugging_face_files(model, revision)
        if any(name.endswith(".safetensors") for name in names):
            ignore = PICKLES
        free = shutil.disk_usage(target).free
        if size > free:
            raise DataError(f"{target}: {model} has {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")
    elif hub == "modelscope":
        ignore = PICKLES
    _snapshot(hub, model, "model", revision, target, ignore_patterns=list(ignore))
    if not any(target.glob("*.safetensors")) and not any(target.glob("*.bin")):
        raise DataError(f"{target}: {model} has no weights that transformers loads")
    return target


def _hugging_face_files(model: str, revision: str | None) -> tuple[list[str], int]:
    """Names of a model's files and the bytes of those that will be fetched."""
    from huggingface_hub import HfApi

    with _hub_errors("huggingface", model):
        files = HfApi().model_info(model, revision=revision, files_metadata=True, timeout=30).siblings or []
    return [file.rfilename for file in files], sum(file.size or 0 for file in files if _is_wanted(file.rfilename))


def _is_wanted(name: str) -> bool:
    return not any(Path(name).match(pattern) for pattern in PICKLES)


def download_data(data_set: str, hub: str = "huggingface", revision: str | None = None) -> Path:
    """Fetch the data files of a data set into the hub's cache.

    Returns:
        The folder that holds them.

    Raises:
        DataError: If the data set does not exist or the hub cannot be reached.
    """
    return _snapshot(hub, data_set, "dataset", revision, None, allow_patterns=DATA_PATTERNS)


def _snapshot(hub: str, name: str, kind: str, revision: str | None, target: Path | None, **patterns: list[str]) -> Path:
    with _hub_errors(hub, name):
        if hub == "modelscope":
            return _modelscope(name, kind, revision, target, **patterns)
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(name, repo_type=kind, revision=revision, local_dir=target, etag_timeout=30, **patterns)
        )


def _modelscope(name: str, kind: str, revision: str | None, target: Path | None, **patterns: list[str]) -> Path:
    try:
        from modelscope import dataset_snapshot_download, snapshot_download
    except ImportError as error:
        raise DataError(
            "--hub modelscope: the package is not installed; pip install --no-deps -r requirements/lock-modelscope.txt"
        ) from error
    fetch = dataset_snapshot_download if kind == "dataset" else snapshot_download
    return Path(fetch(name, revision=revision, local_dir=str(target) if target else None, **patterns))


class _hub_errors:
    """Turns the errors of a hub's client into one line that says what to do."""

    def __init__(self, hub: str, name: str):
        self.hub, self.name = hub, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, DataError) or not isinstance(error, Exception):
            return
        word = type(error).__name__
        if "GatedRepo" in word or "401" in str(error) or "403" in str(error):
            advice = "accept its licence on its page and set HF_TOKEN, or log in with: hf auth login"
        elif "NotFound" in word and "LocalEntry" not in word:
            advice = "check the spelling; private ones need HF_TOKEN"
        else:
            advice = (
                "check the network; set HF_ENDPOINT to a mirror, try --hub modelscope, or fetch it on another machine "
                "and give the folder (--from DIR for data)"
            )
        raise DataError(f"{self.name}: {self.hub} says {word}: {_first_line(error)}; {advice}") from error


def _first_line(error: Any) -> str:
    return str(error).strip().split("\n", 1)[0][:200]


def split_files(folder: Path, split: str, subset: str | None = None) -> list[Path]:
    """Data files of a split, found by their names (``train-00000-of-00002.parquet``, ``main/train.jsonl.gz``).

    Files that are named by the split alone, or with the number of a part, go before those that have more in their name:
    next to ``test.jsonl``, ``test_socratic.jsonl`` is another set and not a part of it.

    Args:
        folder: A data set's folder.
        split: ``train``, ``test``, ``validation`` ...
        subset: Folder or part of the name that tells one of several subsets apart.

    Raises:
        DataError: If there is none, with what there is, or if there are several sets.
    """
    there = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name.lower().removesuffix(".gz").endswith(KINDS) and not path.name.startswith(".")
    )
    named = _named(there, folder, split.lower())
    if subset:
        named = [path for path in named if subset in path.relative_to(folder).as_posix()] or named
    if not named:
        shown = ", ".join(path.relative_to(folder).as_posix() for path in there[:10]) or "no data files"
        raise DataError(f"{folder}: no file of the split {split}; there are {shown}")
    kinds = [kind_of(path) for path in named]
    best = (".parquet", False) if (".parquet", False) in kinds else kinds[0]
    taken = [path for path, kind in zip(named, kinds, strict=True) if kind == best]
    folders = sorted({path.parent.relative_to(folder).as_posix() for path in taken})
    if len(folders) > 1:
        say_in_log(
            f"{folder}: {split} is read from {', '.join(folders)}; --split {folders[0]}/{split} reads one of them"
        )
    return taken


def _named(there: list[Path], folder: Path, split: str) -> list[Path]:
    """Those files that belong to a split by their names, else by their folders.

    Raises:
        DataError: If several sets have the split in their name and none is named by it alone.
    """
    parent, _, split = split.rpartition("/")
    there = [
        path
        for path in there
        if not parent or f"/{path.parent.relative_to(folder).as_posix().lower()}".endswith(f"/{parent}")
    ]
    named = [path for path in there if re.search(rf"(^|[^a-z]){re.escape(split)}([^a-z]|$)", _stem(path))]
    if not named:
        return [path for path in there if path.parent.name.lower() == split and path.parent != folder]
    alone = [path for path in named if re.fullmatch(re.escape(split) + PART, _stem(path))]
    sets = sorted({re.sub(PART + "$", "", _stem(path)) for path in named})
    if not alone and len(sets) > 1:
        raise DataError(
            f"{folder}: several sets have {split} in their name ({', '.join(sets[:10])}); name one: --split {sets[0]}"
        )
    return alone or named


PART = r"([-_.]?\d+([-_]?of[-_]?\d+)?)?"


def _stem(path: Path) -> str:
    return path.name.lower().removesuffix(".gz").rsplit(".", 1)[0]
