"""Turn a checkpoint of verl into a plain Hugging Face folder: ``python -m common.export outputs/RUN``.

verl's own model merger joins the shards of all ranks (in bfloat16). A LoRA adapter, which the merger leaves beside
the base weights, is folded into them, so that the folder is the trained model.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from common.run_dir import latest_checkpoint, model_shards


def export_checkpoint(checkpoint: Path, target: Path) -> None:
    """Write the model of a checkpoint as a Hugging Face folder; replaces ``target`` only when all went well.

    Args:
        checkpoint: A ``global_step_N`` folder of an FSDP run, with the shards of all ranks.
        target: Where the model goes; ``AutoModelForCausalLM.from_pretrained`` loads it.

    Raises:
        FileNotFoundError: If a shard is missing, e.g. because it lies on another node.
    """
    from verl.model_merger.base_model_merger import ModelMergerConfig
    from verl.model_merger.fsdp_model_merger import FSDPModelMerger

    shards = model_shards(checkpoint)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config = ModelMergerConfig(
        operation="merge",
        backend="fsdp",
        local_dir=str(shards),
        target_dir=str(partial),
        hf_model_config_path=str(shards / "huggingface"),
        hf_upload_path=None,
        tie_word_embedding=False,
        trust_remote_code=False,
        is_value_model=False,
    )
    try:
        FSDPModelMerger(config).merge_and_save()
        fold_adapter(partial)
        replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def fold_adapter(folder: Path) -> None:
    """Add the LoRA adapter in ``folder/lora_adapter`` to the weights in ``folder``; without one nothing changes."""
    adapter = folder / "lora_adapter"
    if not adapter.is_dir():
        return
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    for weights in folder.glob("model*.safetensors*"):
        weights.unlink()
    merged.to(torch.bfloat16).save_pretrained(folder)


def replace_folder(source: Path, target: Path) -> None:
    """Move a folder to a path that may exist: the old one goes only after the new one is in place."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """Export the newest checkpoint of a run, or one that is named."""
    parser = argparse.ArgumentParser(prog="python -m common.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run directory, or a global_step_N folder of one")
    parser.add_argument("--to", type=Path, help="where the model goes (default: RUN/model)")
    arguments = parser.parse_args()
    if arguments.run.name.startswith("global_step_"):
        checkpoint, run_dir = arguments.run, arguments.run.parent.parent
    else:
        found = latest_checkpoint(arguments.run)
        if found is None:
            print(f"error: {arguments.run}: no complete checkpoint in {arguments.run}/checkpoints", file=sys.stderr)
            return 2
        checkpoint, run_dir = found[1], arguments.run
    target = arguments.to or run_dir / "model"
    export_checkpoint(checkpoint, target)
    print(f"{target}: exported from {checkpoint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
