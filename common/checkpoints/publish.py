"""A run's model on a hub, with its card: ``python -m common.checkpoints publish RUN user/name``."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.checkpoints.card import HUB_ID, About, check_private, write_card
from common.checkpoints.hub_upload import open_repository, upload
from common.checkpoints.merge import SOURCE_FILE, hugging_face_folder
from common.run_dir import read_run
from common.small_files import read_json_object

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
KEPT = (".json", ".txt", ".model", ".jinja", ".tiktoken")
CURVE = "charts/metrics.png"
ADAPTER = "lora_adapter"


def publish(
    run_dir: Path,
    repo: str,
    hub: str = "huggingface",
    lora: bool = False,
    private: bool = True,
    base: str = "",
    licence: str = "",
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> Path | None:
    """Put a run's model and its card into a repository.

    Args:
        run_dir: The run; the checkpoint that was selected is meant, else the newest complete one.
        repo: ``user/name``.
        hub: One of ``hub_upload.HUBS``.
        lora: The adapter alone.
        private: For the owner alone; a repository that is public already is refused.
        base: Hub id of the base model, where the run has it from a folder.
        licence: Of the base model, where its README.md does not say it.
        dry_run: Make the folder and upload nothing.
        say: Is told what goes on.

    Returns:
        The folder that would be uploaded, for a dry run.

    Raises:
        ValueError: If something is missing or private, or the hub refuses.
    """
    if not HUB_ID.fullmatch(repo):
        raise ValueError(f"{repo}: not the name of a repository; give user/name")
    run = read_run(run_dir)
    if not run:
        raise ValueError(f"{run_dir}: no run.json in it; give a run")
    model = hugging_face_folder(run_dir, say)
    source = model / ADAPTER if lora else model
    if not source.is_dir():
        raise ValueError(f"--lora: {run_dir} has no adapter in {source}; leave --lora out for the whole model")
    base = base or str(run.get("model") or "")
    if lora and not HUB_ID.fullmatch(base) or lora and Path(base).exists():
        raise ValueError(f"--base is missing: an adapter names its base model by its id on the hub, not {base!r}")
    about = About(repo, base if _is_id(base) else Path(base).name, licence or _licence(base), lora, _curve(run_dir))
    folder = run_dir / f".publish-{'lora' if lora else 'merged'}"
    names = _stage(source, folder, run_dir, about)
    if dry_run:
        say(f"{folder}: {len(names)} files, {', '.join(names)}; nothing was uploaded (--dry-run)")
        return folder
    repository = open_repository(hub, repo)
    say(f"{repository.address}: {len(names)} files")
    done = upload(repository, folder, names, private, say)
    shutil.rmtree(folder)
    say(f"{repository.address}: complete, {done} of {len(names)} files uploaded now")
    return None


def _is_id(base: str) -> bool:
    return bool(HUB_ID.fullmatch(base)) and not Path(base).exists()


def _curve(run_dir: Path) -> bool:
    return (run_dir / CURVE).is_file()


def _licence(base: str) -> str:
    """What the base model's own card says.

    Raises:
        ValueError: If it says nothing, or is not on this machine.
    """
    card = Path(base) / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace")[:10_000] if base and card.is_file() else ""
    found = re.search(r"\A---\s*\n(?:.*\n)*?license: *[\"']?([\w.-]+)", text)
    if not found:
        raise ValueError(
            f"--licence is missing: no README.md with a licence in {base or 'the base model'}; look on its page and "
            "give it, e.g. --licence apache-2.0"
        )
    return found[1]


def _stage(source: Path, folder: Path, run_dir: Path, about: About) -> list[str]:
    """Gather what is to be uploaded; returns the names, the card last, so that a repository with a card is complete."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        for pattern in WEIGHTS:
            for file in sorted(source.glob(pattern)):
                _link(file, folder / file.name)
        if not any(folder.glob("*.safetensors")):
            raise ValueError(f"{source}: no *.safetensors in it")
        for file in sorted(source.iterdir()):
            if (
                file.suffix in KEPT
                and file.is_file()
                and not (folder / file.name).exists()
                and file.name != SOURCE_FILE
            ):
                _copy_text(file, folder, run_dir, about.base)
        if about.has_curve:
            shutil.copyfile(run_dir / CURVE, folder / "metrics.png")
        names = [file.name for file in sorted(folder.iterdir(), key=lambda file: (-file.stat().st_size, file.name))]
        card = write_card(run_dir, about)
        check_private(card, os.environ, run_dir)
        (folder / "README.md").write_text(card, encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return [*names, "README.md"]


def _link(file: Path, target: Path) -> None:
    """The same file under another name where the disk can, else a copy."""
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)


def _copy_text(file: Path, folder: Path, run_dir: Path, base: str) -> None:
    """A config or tokenizer file without paths of this machine.

    Raises:
        ValueError: If something private is in it.
    """
    text = file.read_text(encoding="utf-8")
    if file.name in ("config.json", "adapter_config.json", "generation_config.json", "tokenizer_config.json"):
        values: dict[str, Any] = read_json_object(file)
        if "base_model_name_or_path" in values:
            values["base_model_name_or_path"] = base
        if str(values.get("_name_or_path", "")).startswith(("/", "~", ".")):
            values.pop("_name_or_path")
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    if len(text) < 1 << 20:  # a tokenizer's vocabulary is no place for secrets, and holds every word
        check_private(text, os.environ, run_dir)
    (folder / file.name).write_text(text, encoding="utf-8")
