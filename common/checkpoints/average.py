"""Several models mixed into one: the mean of their weights (Izmailov et al., arXiv 1803.05407; soups, 2203.05482)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.checkpoints.layout import checkpoint_at
from common.checkpoints.merge import SOURCE_FILE, full_state, replace_folder, save_model
from common.checkpoints.model_class import auto_class
from common.files import write_atomically

if TYPE_CHECKING:
    import torch


def average(sources: Sequence[Path], target: Path, weights: Sequence[float] | None = None, dtype="bfloat16") -> dict:
    """Write the weighted mean of some models as a Hugging Face folder.

    One model is in memory at a time, next to the sum in float32.

    Args:
        sources: ``global_step_N`` folders or Hugging Face folders of one architecture, at least two.
        target: Where the mean goes; replaced only when all went well.
        weights: One a source, not all zero; they are scaled to a sum of 1. Uniform by default.
        dtype: Of the weights that are written.

    Returns:
        What was averaged, as written to ``merged_from.json``.

    Raises:
        ValueError: If there are fewer than two, or names or shapes differ.
    """
    from common.checkpoints.proof import prove_folder

    if len(sources) < 2:
        raise ValueError(f"{len(sources)} model to average; name at least two checkpoints or folders")
    shares = _shares(weights, len(sources))
    total: dict[str, torch.Tensor] = {}
    for source, share in zip(sources, shares, strict=True):
        _add(total, _state(source), share, source)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_model(total, _config_folder(sources[0]), partial, dtype)
        facts: dict[str, Any] = {"averaged": [str(source) for source in sources], "weights": shares, "dtype": dtype}
        facts["proof"] = prove_folder(partial)
        write_atomically(partial / SOURCE_FILE, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} models; give one each")
    total = sum(weights)
    if total == 0:
        raise ValueError("the weights add up to 0")
    return [weight / total for weight in weights]


def _state(source: Path) -> dict[str, torch.Tensor]:
    import torch

    checkpoint = checkpoint_at(source)
    if checkpoint:
        return full_state(checkpoint)[0]
    return dict(auto_class(source).from_pretrained(source, dtype=torch.float32, trust_remote_code=False).state_dict())


def _config_folder(source: Path) -> Path:
    checkpoint = checkpoint_at(source)
    return checkpoint.roles["actor"] / "huggingface" if checkpoint else source


def _add(total: dict[str, torch.Tensor], state: dict[str, torch.Tensor], share: float, source: Path) -> None:
    """Add a share of one model to the sum, which starts empty."""
    if not total:
        total.update({name: share * tensor.float() for name, tensor in state.items()})
        return
    for name in set(total) ^ set(state):
        if not name.startswith("lm_head"):  # a head tied to the embedding, which not every source writes out
            raise ValueError(f"{source}: {name} is not in all models; they cannot be averaged")
        total.pop(name, None)
    for name in total:
        if total[name].shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)} and {tuple(total[name].shape)}"
            raise ValueError(f"{source}: {name} has the shapes {shapes}; models of one architecture can be averaged")
        total[name] += share * state[name].float()
