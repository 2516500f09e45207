"""The shards of all ranks joined to whole tensors."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

from common.checkpoints.layout import world_size

if TYPE_CHECKING:
    import torch


def load_full_state(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Join the model shards of a folder.

    The shards are mapped from disk and joined tensor by tensor, so memory holds little more than the result.

    Args:
        folder: With ``model_world_size_W_rank_R.pt`` of an FSDP (1 or 2) engine, any W, also sharded within groups
            of replicas (HSDP).
        dtype: Of the floating-point tensors that are returned; with a LoRA adapter all are float32, to be folded.

    Returns:
        Name -> whole tensor, in the order of the model.

    Raises:
        FileNotFoundError: If a shard is missing, e.g. because it is on another node.
        ValueError: If the shards do not fit together.
    """
    import torch
    import torch.distributed.tensor  # registers DTensor with the safe unpickler

    size = world_size(folder)
    if size is None:
        raise FileNotFoundError(f"{folder}: no fsdp_config.json, so this is not a checkpoint of an FSDP engine")
    first = _load(folder, size, 0)
    sharded = [tensor for tensor in first.values() if isinstance(tensor, torch.distributed.tensor.DTensor)]
    # Ranks of other replica groups hold the same again: the last dimension of the mesh is the one that shards.
    shards = sharded[0].device_mesh.mesh.shape[-1] if sharded else 1
    states = [first] + [_load(folder, size, rank) for rank in range(1, shards)]
    if any("lora_" in name for name in first):
        dtype = torch.float32
    full = {}
    for name in list(first):
        try:
            tensor = _join([state.pop(name) for state in states])
        except (KeyError, ValueError, RuntimeError) as error:
            raise ValueError(f"{folder}: the shards of {name} do not fit together ({error})") from error
        full[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return full


def _load(folder: Path, size: int, rank: int) -> dict[str, torch.Tensor]:
    import torch

    file = folder / f"model_world_size_{size}_rank_{rank}.pt"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; copy the shards of all {size} ranks into one folder")
    # It warns that the process group is not there; nothing is computed on these.
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)
    try:
        return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"{file} holds more than tensors, which is not loaded: {said}") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{file} is torn: {str(error).splitlines()[0]}") from error


def _join(parts: list[torch.Tensor]) -> torch.Tensor:
    """One tensor from its parts on each rank; parts that are not DTensors are copies of the whole."""
    import torch
    from torch.distributed.tensor import DTensor

    first = parts[0]
    if not isinstance(first, DTensor):
        return first
    placement = first.placements[-1]
    if placement.is_replicate():
        return first._local_tensor
    if not placement.is_shard():
        raise ValueError(f"placement {placement}")
    joined = torch.cat([part._local_tensor for part in parts], dim=placement.dim)
    if joined.shape != first.shape:
        raise ValueError(f"joined to {tuple(joined.shape)}, the whole is {tuple(first.shape)}")
    return joined
