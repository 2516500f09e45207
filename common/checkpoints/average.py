"""Several models mixed into one, a weight at a time: the mean of their weights, or slerp, ties and dare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.checkpoints.layout import checkpoint_at
from common.checkpoints.merge import SOURCE_FILE, copy_settings, merge, replace_folder
from common.checkpoints.mixing import WITH_BASE, Recipe, mix
from common.checkpoints.model_class import auto_class
from common.checkpoints.weight_files import INDEX, SHARD_BYTES, SINGLE, WeightFiles, write_weights
from common.files import open_as_umask, write_atomically
from common.small_files import read_json_object

if TYPE_CHECKING:
    import torch

HEAD = "lm_head."  # tied to the embedding, it is in some folders and not in others


def average(
    sources: Sequence[Path],
    target: Path,
    weights: Sequence[float] | None = None,
    dtype: str = "bfloat16",
    recipe: Recipe | None = None,
    base: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write a mix of some models as a Hugging Face folder.

    Hugging Face folders are read a weight at a time: in memory are one weight of each model and one file of the result.
    Shards of a trainer are made a folder first, on disk next to the target, one model after the other.

    Args:
        sources: ``global_step_N`` folders or Hugging Face folders of one architecture, at least two.
        target: Where the mix goes; replaced only when all went well.
        weights: One a source, not all zero; they are scaled to a sum of 1. Uniform by default.
        dtype: Of the weights that are written.
        recipe: Method and its values; the mean by default.
        base: The model that the sources started from, as a folder like theirs; for ties and dare.
        shard_bytes: Size of a file of the result.

    Returns:
        What was mixed, as written to ``merged_from.json``.

    Raises:
        ValueError: If there are fewer than two, or names or shapes differ, or the recipe does not fit.
    """
    from common.checkpoints.proof import prove_folder

    if len(sources) < 2:
        raise ValueError(f"{len(sources)} model to average; name at least two checkpoints or folders")
    recipe = replace(recipe or Recipe(), shares=tuple(_shares(weights, len(sources)))).check()
    if (base is not None) != (recipe.method in WITH_BASE):
        missing = "is missing: the model that they all started from" if base is None else "has no use here"
        raise ValueError(f"--method {recipe.method}: --base {missing}")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with _Scratch(target) as scratch:
            folders = [scratch.safetensors(source) for source in [*sources, *([base] if base else [])]]
            _write(folders, base is not None, partial, recipe, dtype, shard_bytes)
        facts = _facts(sources, base, recipe, dtype)
        facts["proof"] = prove_folder(partial)
        write_atomically(partial / SOURCE_FILE, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def _facts(sources: Sequence[Path], base: Path | None, recipe: Recipe, dtype: str) -> dict[str, Any]:
    facts = {"averaged": [str(source) for source in sources], "weights": list(recipe.shares), "dtype": dtype}
    facts["method"] = recipe.method
    if base is not None:
        facts |= {"base": str(base), "density": recipe.density, "scale": recipe.scale}
    if recipe.method.startswith("dare"):
        facts["seed"] = recipe.seed
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


class _Scratch:
    """Folders of safetensors for sources that are something else, removed at the end."""

    def __init__(self, target: Path):
        self.folder = target.with_name(f".{target.name}.sources")

    def __enter__(self) -> _Scratch:
        shutil.rmtree(self.folder, ignore_errors=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def safetensors(self, source: Path) -> Path:
        """The folder itself, or one made of it, in float32."""
        checkpoint = checkpoint_at(source)
        if not checkpoint and ((source / SINGLE).is_file() or (source / INDEX).is_file()):
            return source
        made = self.folder / str(len(list(self.folder.glob("*"))))
        if checkpoint:
            merge(checkpoint, made, "float32", prove=False)
            return made
        made.mkdir(parents=True)
        model = auto_class(source).from_pretrained(source, dtype="float32", trust_remote_code=False)
        model.save_pretrained(made)
        copy_settings(source, made)
        return made


def _write(
    folders: Sequence[Path], with_base: bool, target: Path, recipe: Recipe, dtype: str, shard_bytes: int
) -> None:
    """Mix folders, of which the last may be the base, into a folder that exists."""
    config = read_json_object(folders[0] / "config.json")
    models = [WeightFiles(folder) for folder in folders]
    shapes = _shapes(models, bool(config.get("tie_word_embeddings")))

    def make(name: str) -> torch.Tensor:
        tensors = [model.read(name) for model in models]
        if not tensors[0].is_floating_point():
            return _same(name, tensors)
        return mix(name, tensors[:-1], tensors[-1], recipe) if with_base else mix(name, tensors, None, recipe)

    write_weights(target, shapes, make, dtype, shard_bytes)
    config.pop("torch_dtype", None)  # the older name
    write_atomically(target / "config.json", json.dumps(config | {"dtype": dtype}, indent=2, ensure_ascii=False) + "\n")
    open_as_umask(target, "*.safetensors", like="config.json")
    copy_settings(folders[0], target)


def _shapes(models: Sequence[WeightFiles], tied: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes that all models have; a head that is tied to the embedding is left out."""
    shapes = {name: models[0].shape(name) for name in models[0] if not (tied and name.startswith(HEAD))}
    for model in models[1:]:
        names = {name for name in model if not (tied and name.startswith(HEAD))}
        for name in sorted(set(shapes) ^ names):
            raise ValueError(f"{model.folder}: {name} is not in all models; they cannot be averaged")
        for name, shape in shapes.items():
            if model.shape(name) != shape:
                raise ValueError(
                    f"{model.folder}: {name} has the shapes {model.shape(name)} and {shape}; models of one "
                    "architecture can be averaged"
                )
    return shapes


def _same(name: str, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """A weight of whole numbers, which cannot be mixed."""
    if any(not bool((tensor == tensors[0]).all()) for tensor in tensors[1:]):
        raise ValueError(f"{name} holds whole numbers that differ between the models; they cannot be averaged")
    return tensors[0]
