"""The weights of a Hugging Face folder read one at a time, and written shard by shard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import write_atomically
from common.small_files import read_json_object

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 2 * 2**30  # of a file that is written; this and one weight of each model are in memory
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class WeightFiles:
    """Safetensors of a folder, opened but not read.

    Args:
        folder: With ``model.safetensors``, or shards and their index.

    Raises:
        FileNotFoundError: If there are none, or a shard is missing.
        ValueError: If a file is torn.
    """

    def __init__(self, folder: Path):
        from safetensors import SafetensorError, safe_open

        self.folder = folder
        self.files: dict[str, Any] = {}  # name of a weight -> its open file
        for path in _paths(folder):
            try:
                opened = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{path} is torn or no safetensors file: {error}") from error
            self.files.update(dict.fromkeys(opened.keys(), opened))

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a weight; reads nothing."""
        return tuple(self.files[name].get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        """One weight; floating-point ones in float32."""
        tensor = self.files[name].get_tensor(name)
        return tensor.float() if tensor.is_floating_point() else tensor


def _paths(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        paths = [folder / name for name in sorted(set(read_json_object(folder / INDEX)["weight_map"].values()))]
    else:
        paths = [folder / SINGLE]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
    return paths


def write_weights(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    make: Callable[[str], torch.Tensor],
    dtype: str,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write weights as safetensors, in files of about a size, and the index where there are several.

    Args:
        folder: Exists.
        shapes: Of each weight, in the order in which they are written.
        make: Gives the weight of a name.
        dtype: Floating-point weights are written in it.
        shard_bytes: Size of a file; a weight that is larger has a separate one.
    """
    import torch
    from safetensors.torch import save_file

    kind = getattr(torch, dtype)
    shards = _plan(shapes, kind.itemsize, shard_bytes)
    names = (
        [SINGLE]
        if len(shards) == 1
        else [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    )
    weight_map, size = {}, 0
    for file, shard in zip(names, shards, strict=True):
        tensors = {}
        for name in shard:
            tensor = make(name)
            tensors[name] = (tensor.to(kind) if tensor.is_floating_point() else tensor).contiguous()
            weight_map[name] = file
            size += tensors[name].nbytes
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        write_atomically(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _plan(shapes: dict[str, tuple[int, ...]], item_bytes: int, shard_bytes: int) -> list[list[str]]:
    """Names of each file."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = item_bytes
        for side in shape:
            size *= side
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards
