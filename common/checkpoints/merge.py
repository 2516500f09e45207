"""A checkpoint as a plain Hugging Face folder, proved by loading it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.checkpoints.integrity import newest_complete
from common.checkpoints.layout import MANIFEST, Checkpoint, checkpoint_at, config_folder, is_megatron
from common.checkpoints.model_class import auto_class, read_config
from common.checkpoints.selected import selected
from common.files import open_as_umask, write_atomically
from common.run_dir import read_run
from common.small_files import read_json_object

if TYPE_CHECKING:
    import torch

SOURCE_FILE = "merged_from.json"
DTYPES = ("bfloat16", "float16", "float32")

COPIED = (".json", ".txt", ".model", ".jinja", ".tiktoken")  # of the files next to the weights


def hugging_face_folder(path: str | Path, say: Callable[[str], None] = print) -> Path:
    """Turn what a person may name into a Hugging Face folder; merge where that was not done yet.

    Args:
        path: A run directory (the checkpoint that was selected is meant, else the newest complete one), a
            ``global_step_N`` folder or its ``actor``, or a folder that is a Hugging Face model already.
        say: Called with a message when a merge begins, as it may take minutes.

    Returns:
        ``RUN/model`` for the newest complete checkpoint, ``RUN/model_step_N`` for another one that is named or was
        selected, or ``path`` itself.

    Raises:
        FileNotFoundError: If there is no such folder or no complete checkpoint in it.
        ValueError: If a checkpoint is damaged, or the selected one is gone.
    """
    path = Path(path).expanduser().resolve()
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    checkpoint = checkpoint_at(path)
    if checkpoint is None and (path / "config.json").is_file():
        return path
    checkpoint = checkpoint or selected(path)
    if checkpoint:
        newest = newest_complete(checkpoint.run_dir).checkpoint
        name = "model" if newest and newest.path == checkpoint.path else f"model_step_{checkpoint.step}"
        return _merged_once(checkpoint, checkpoint.run_dir / name, say)
    choice = newest_complete(path)
    if choice.checkpoint:
        return _merged_once(choice.checkpoint, choice.checkpoint.run_dir / "model", say)
    if (path / "model" / "config.json").is_file():  # the checkpoints were removed after training
        return path / "model"
    reasons = "; ".join(choice.skipped) or "neither a config.json nor a global_step_N folder is in it"
    raise FileNotFoundError(f"{path}: no model and no complete checkpoint ({reasons})")


def _merged_once(checkpoint: Checkpoint, target: Path, say: Callable[[str], None]) -> Path:
    if not is_current(checkpoint, target):
        say(f"Merging {checkpoint.path} into {target}")
        merge(checkpoint, target)
    return target


def is_current(checkpoint: Checkpoint, target: Path) -> bool:
    """Whether a folder is the merged model of this very checkpoint."""
    try:
        source = read_json_object(target / SOURCE_FILE)
    except (OSError, ValueError):
        return False
    return source.get("step") == checkpoint.step and source.get("written_at") == _written_at(checkpoint)


def _written_at(checkpoint: Checkpoint) -> float:
    folder = checkpoint.roles["actor"]
    files = (*folder.glob("model_*.pt"), *folder.glob(MANIFEST))
    return max((file.stat().st_mtime for file in files), default=0.0)


def merge(
    checkpoint: Checkpoint, target: Path, dtype: str = "bfloat16", role: str = "actor", prove: bool = True
) -> dict[str, Any]:
    """Write a model of a checkpoint as a Hugging Face folder; replaces ``target`` only when all went well.

    Args:
        checkpoint: Of SFT, DPO or RL, written by any number of ranks, full or LoRA (which is folded in; the adapter
            also goes to ``target/lora_adapter``).
        target: Where the model goes.
        dtype: Of the weights that are written.
        role: ``actor`` or ``critic``.
        prove: Load the result and let it generate a few tokens; needs memory for the model.

    Returns:
        What was merged, as written to ``merged_from.json``.

    Raises:
        FileNotFoundError: If a shard is missing.
        ValueError: If a shard is torn, or the result does not load or compute.
    """
    from common.checkpoints.proof import prove_folder

    if role not in checkpoint.roles:
        there = ", ".join(checkpoint.roles) or "no shards"
        raise FileNotFoundError(f"{checkpoint.path}: has no {role}; it has {there}")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        facts = _write(checkpoint, partial, dtype, role)
        if prove:
            facts["proof"] = prove_folder(partial)
        write_atomically(partial / SOURCE_FILE, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def _write(checkpoint: Checkpoint, target: Path, dtype: str, role: str) -> dict[str, Any]:
    from common.checkpoints.lora import is_plain, rank_and_alpha, save_adapter

    source = checkpoint.roles[role]
    state, adapter = full_state(checkpoint, role, dtype)
    rank, alpha = rank_and_alpha(source, checkpoint.run_dir, adapter) if adapter else (0, 0.0)
    facts = {
        "checkpoint": str(checkpoint.path),
        "step": checkpoint.step,
        "role": role,
        "world_size": checkpoint.world_size,
        "dtype": dtype,
        "lora_rank": rank,
        "written_at": _written_at(checkpoint),
    }
    if adapter and is_plain(adapter):
        base_model = read_run(checkpoint.run_dir).get("model", "")
        save_adapter(adapter, target / "lora_adapter", rank, alpha, base_model)
    save_model(state, config_folder(source), target, dtype)
    return facts


def full_state(
    checkpoint: Checkpoint, role: str = "actor", dtype: str = "float32"
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Whole weights of a checkpoint, an adapter folded in (in float32), and the adapter (empty without one).

    Raises:
        FileNotFoundError: If a shard is missing, or the base model of a checkpoint that holds an adapter alone.
        ValueError: If a file is torn.
    """
    import torch

    from common.checkpoints.lora import fold, fold_with_peft, has_adapter, is_plain, rank_and_alpha, split_adapter
    from common.checkpoints.shards import load_full_state

    folder = checkpoint.roles[role]
    if is_megatron(folder):
        return _whole_state(config_folder(folder), getattr(torch, dtype)), {}
    state = load_full_state(folder, getattr(torch, dtype))
    if not has_adapter(state):
        return state, {}
    base, adapter = split_adapter(state)
    if not base:  # save_lora_only
        base = _base_state(read_run(checkpoint.run_dir).get("model", ""), folder / "huggingface")
    rank, alpha = rank_and_alpha(folder, checkpoint.run_dir, adapter)
    if is_plain(adapter):
        fold(base, adapter, alpha / rank)
    else:
        targets = read_run(checkpoint.run_dir).get("knobs", {}).get("LORA_TARGETS") or "all-linear"
        base = fold_with_peft(state, folder / "huggingface", rank, alpha, targets)
    return base, adapter


def _whole_state(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights of a Hugging Face folder.

    Raises:
        ValueError: If some are missing, which transformers would fill with random numbers, or left over.
    """
    model, seen = auto_class(folder).from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, output_loading_info=True
    )
    off = sorted({*seen["missing_keys"], *seen["unexpected_keys"]})
    if off:
        raise ValueError(f"{folder}: {len(off)} weights are missing or left over: {off[:3]}")
    return dict(model.state_dict())


def _base_state(model: str, config_folder: Path) -> dict[str, torch.Tensor]:
    import torch

    if not model:
        raise FileNotFoundError("the checkpoint holds only an adapter, and run.json names no base model")
    return dict(
        auto_class(config_folder).from_pretrained(model, dtype=torch.float32, trust_remote_code=False).state_dict()
    )


def save_model(state: dict[str, torch.Tensor], config_folder: Path, target: Path, dtype: str) -> None:
    """Write weights with the config, tokenizer and generation settings of another folder.

    Args:
        state: Name -> tensor under transformers' own names; is emptied to save memory.
        config_folder: Has config.json and the tokenizer.
        target: A folder that exists.
        dtype: Of the weights that are written.

    Raises:
        ValueError: If weights are missing or left over, with their names.
    """
    import torch
    from accelerate import init_empty_weights
    from verl.utils.transformers_compat import drop_tied_target_keys

    config = read_config(config_folder)
    kind = auto_class(config_folder)
    with init_empty_weights():
        model = kind.from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
    # Before anything is written: what transformers would fill with random numbers must not be missing.
    drop_tied_target_keys(state, model, config)
    names = {name for name, _ in model.named_parameters()}
    missing, extra = sorted(names - set(state)), sorted(set(state) - set(model.state_dict()))
    if missing or extra:
        names, what = (missing, "missing") if missing else (extra, "unknown to the model")
        raise ValueError(f"{config_folder.parent}: {len(names)} weights are {what}: {names[:3]}")
    for name, tensor in state.items():
        state[name] = tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
    model.save_pretrained(target, state_dict=state)
    written = json.loads((target / "config.json").read_text(encoding="utf-8")) | {"dtype": dtype}
    write_atomically(target / "config.json", json.dumps(written, indent=2, ensure_ascii=False) + "\n")
    open_as_umask(target, "*.safetensors", like="config.json")
    copy_settings(config_folder, target)


def copy_settings(folder: Path, target: Path) -> None:
    """Copy tokenizer, chat template and generation settings; no code, and no links to files of this user."""
    for file in folder.iterdir():
        known = file.suffix in COPIED and not file.name.startswith("model")
        if known and file.name not in ("config.json", SOURCE_FILE) and file.is_file() and not file.is_symlink():
            shutil.copyfile(file, target / file.name)


def replace_folder(source: Path, target: Path) -> None:
    """Move a folder to a path that may exist: the old one goes only after the new one is in place."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)
