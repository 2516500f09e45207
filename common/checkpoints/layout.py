"""Which checkpoints a run has, and which files belong to one; read without torch.

verl's RL trainers write ``global_step_N/actor/`` (and ``critic/``) and ``data.pt``; its SFT trainer, and dpo/, write
the same shard files straight into ``global_step_N/`` and ``data_<rank>.pt`` for each data-parallel rank. Its Megatron
engine writes no shards of ranks: ``actor/model/huggingface/``, ``actor/optimizer/`` and, last, a manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.small_files import read_json_object

STEP_NAME = re.compile(r"global_step_(\d+)")
SHARD_NAME = re.compile(r"(model|optim|extra_state)_world_size_(\d+)_rank_(\d+)\.pt")
ROLES = ("actor", "critic")
MANIFEST = "ckpt_contents.json"  # of Megatron


@dataclass(frozen=True)
class Checkpoint:
    """One ``global_step_N`` folder.

    Args:
        path: The folder.
        step: N.
    """

    path: Path
    step: int

    @property
    def run_dir(self) -> Path:
        """The run it belongs to: ``RUN/checkpoints/global_step_N``."""
        return self.path.parent.parent

    @property
    def is_supervised(self) -> bool:
        """Whether the shards are in the folder itself, as the SFT and DPO trainers write them."""
        return not (self.path / "actor").is_dir()

    @property
    def roles(self) -> dict[str, Path]:
        """Folder of each model in it: ``actor`` always, ``critic`` for PPO."""
        if self.is_supervised:
            return {"actor": self.path}
        return {role: self.path / role for role in ROLES if (self.path / role).is_dir()}

    @property
    def world_size(self) -> int | None:
        """Number of processes that wrote it; verl can load it with the same number only."""
        return world_size(self.roles["actor"]) if self.roles else None

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def is_megatron(folder: Path) -> bool:
    """Whether Megatron wrote a model's folder; the manifest comes when all else is there."""
    return (folder / MANIFEST).is_file()


def config_folder(folder: Path) -> Path:
    """Where a model's config and tokenizer lie in its folder, and Megatron's weights."""
    return folder / "model" / "huggingface" if is_megatron(folder) else folder / "huggingface"


def world_size(folder: Path) -> int | None:
    """Number of processes that wrote the shards of a folder, from fsdp_config.json or the shards' names."""
    config = folder / "fsdp_config.json"
    if config.is_file():
        try:
            return int(read_json_object(config)["world_size"])
        except (ValueError, KeyError):  # torn; the names of the shards tell it too
            pass
    sizes = {int(match[2]) for _, match in shard_files(folder)}
    return sizes.pop() if len(sizes) == 1 else None


def shard_files(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    """The shard files of a folder with what their names say: kind, world size, rank."""
    for file in sorted(folder.glob("*.pt")):
        match = SHARD_NAME.fullmatch(file.name)
        if match:
            yield file, match


def checkpoints_of(path: Path) -> list[Checkpoint]:
    """The checkpoints of a run, or of a folder that holds ``global_step_N`` folders, by step."""
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found = []
    for entry in folder.glob("global_step_*"):
        match = STEP_NAME.fullmatch(entry.name)
        if match and entry.is_dir():
            found.append(Checkpoint(entry, int(match[1])))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def checkpoint_at(path: Path) -> Checkpoint | None:
    """The checkpoint that a path names: a ``global_step_N`` folder, or something in it (``actor``)."""
    path = path.resolve()
    for folder in (path, *path.parents):
        match = STEP_NAME.fullmatch(folder.name)
        if match:
            return Checkpoint(folder, int(match[1])) if folder.is_dir() else None
    return None
