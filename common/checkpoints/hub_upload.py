"""Files to a repository on the Hugging Face hub or ModelScope, one after the other; what is there already is left.

Tokens come from the environment (HF_TOKEN, MODELSCOPE_API_TOKEN) or the hubs' own logins, never from an argument.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

HUBS = ("huggingface", "modelscope")
MESSAGE = "Upload {name} with the verl training kit"


class Repository(Protocol):
    """A repository that takes files."""

    address: str

    def make(self, private: bool) -> None:
        """Make it where it is not there.

        Raises:
            ValueError: If it is there, is public, and a private one is wanted.
        """

    def there(self) -> dict[str, set[str]]:
        """Name of each file -> digests of its content, whichever the hub gives."""

    def put(self, path: Path, name: str) -> None:
        """Upload one file."""


class HuggingFace:
    """A model repository on the Hugging Face hub (or a mirror that HF_ENDPOINT names).

    Args:
        repo: ``user/name``.
    """

    def __init__(self, repo: str):
        from huggingface_hub import HfApi

        self.api, self.repo = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None), repo
        self.address = f"{self.api.endpoint}/{repo}"

    def make(self, private: bool) -> None:
        """See ``Repository``."""
        if self.api.repo_exists(self.repo):
            _check_private(private, bool(self.api.model_info(self.repo).private), self.repo)
        else:
            self.api.create_repo(self.repo, private=private)

    def there(self) -> dict[str, set[str]]:
        """See ``Repository``; large files by SHA-256, small ones by git's SHA-1."""
        files = self.api.model_info(self.repo, files_metadata=True).siblings or []
        return {file.rfilename: {file.lfs.sha256 if file.lfs else file.blob_id or ""} for file in files}

    def put(self, path: Path, name: str) -> None:
        """See ``Repository``."""
        message = MESSAGE.format(name=name)
        self.api.upload_file(path_or_fileobj=path, path_in_repo=name, repo_id=self.repo, commit_message=message)


class ModelScope:
    """A model repository on ModelScope.

    Args:
        repo: ``user/name``.

    Raises:
        ValueError: If the package is not installed.
    """

    def __init__(self, repo: str):
        try:
            from modelscope_hub.api import HubApi
        except ImportError as error:
            raise ValueError(
                "--hub modelscope: the package is not installed; "
                "pip install --no-deps -r requirements/lock-modelscope.txt"
            ) from error
        self.api, self.repo = HubApi(), repo
        self.address = f"https://modelscope.cn/models/{repo}"

    def make(self, private: bool) -> None:
        """See ``Repository``."""
        if self.api.repo_exists(self.repo, "model"):
            visibility = getattr(self.api.get_repo(self.repo, "model"), "visibility", None)
            _check_private(private, "private" in str(visibility).lower() or visibility == 1, self.repo)
        else:
            self.api.create_repo(self.repo, "model", visibility="private" if private else "public")

    def there(self) -> dict[str, set[str]]:
        """See ``Repository``; all by SHA-256."""
        files: list[Any] = self.api.list_repo_files(self.repo, "model")
        return {file.path: {file.sha256 or ""} for file in files if not file.is_dir}

    def put(self, path: Path, name: str) -> None:
        """See ``Repository``."""
        self.api.upload_file(self.repo, "model", path, name, commit_message=MESSAGE.format(name=name))


def open_repository(hub: str, repo: str) -> Repository:
    """The repository of a hub."""
    return HuggingFace(repo) if hub == "huggingface" else ModelScope(repo)


def _check_private(wanted: bool, is_private: bool, repo: str) -> None:
    if wanted and not is_private:
        raise ValueError(
            f"{repo}: is there already, and everybody can read it; say so with --public, or give another name"
        )


def upload(
    repository: Repository, folder: Path, names: Sequence[str], private: bool, say: Callable[[str], None]
) -> int:
    """Upload files in an order; those that are there with the same content are left.

    Args:
        repository: Where to.
        folder: They lie in.
        names: Of the files.
        private: A repository that is made now can be read by its owner alone.
        say: Is told of each file.

    Returns:
        How many were uploaded.

    Raises:
        ValueError: If the hub refuses or is lost, with how far it came.
    """
    done = 0
    try:
        repository.make(private)
        there = repository.there()
        for number, name in enumerate(names, 1):
            path = folder / name
            if digests(path) & (there.get(name, set()) - {""}):
                say(f"  {number}/{len(names)} {name}: is there")
                continue
            say(f"  {number}/{len(names)} {name}: {path.stat().st_size / 2**20:,.1f} MiB")
            repository.put(path, name)
            done += 1
    except ValueError:
        raise
    except Exception as error:  # of whichever library: each hub's client has errors of its own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(
            f"{repository.address}: {type(error).__name__}: {first}; {done} files were uploaded now. The same command "
            "resumes; a refused token: hf auth login (or HF_TOKEN), MODELSCOPE_API_TOKEN for ModelScope"
        ) from error
    return done


def digests(path: Path) -> set[str]:
    """SHA-256 of a file, and the SHA-1 that git gives its content."""
    whole, blob = hashlib.sha256(), hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while data := stream.read(1 << 20):
            whole.update(data)
            blob.update(data)
    return {whole.hexdigest(), blob.hexdigest()}
