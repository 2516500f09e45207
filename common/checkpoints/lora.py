"""A LoRA adapter of PEFT folded into its base weights: W + alpha/r * B A (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.checkpoints.model_class import auto_class, read_config
from common.files import open_as_umask
from common.run_dir import read_run
from common.small_files import read_json_object

if TYPE_CHECKING:
    import torch

PREFIX = "base_model.model."
A, B = ".lora_A.default.weight", ".lora_B.default.weight"
EMBEDDING_A, EMBEDDING_B = ".lora_embedding_A.default", ".lora_embedding_B.default"


def has_adapter(state: dict[str, Any]) -> bool:
    """Whether a state dictionary is that of a PEFT model."""
    return any("lora_" in name for name in state)


def rank_and_alpha(folder: Path, run_dir: Path, state: dict[str, torch.Tensor]) -> tuple[int, float]:
    """Return r and alpha of the adapter in a checkpoint; its scale is alpha / r.

    Args:
        folder: With verl's lora_train_meta.json.
        run_dir: Its run, whose knobs are asked where verl wrote no alpha.
        state: The weights, for r.

    Raises:
        ValueError: If alpha is not written anywhere.
    """
    meta = folder / "lora_train_meta.json"
    alpha = read_json_object(meta).get("lora_alpha") if meta.is_file() else None
    alpha = alpha or read_run(run_dir).get("knobs", {}).get("LORA_ALPHA")
    if not alpha:
        raise ValueError(f"{meta}: lora_alpha is neither there nor in {run_dir}/run.json; write it into one")
    ranks = (state[name].shape[0] for name in state if name.endswith((A, EMBEDDING_A)) and ".experts." not in name)
    rank = next(ranks, None) or read_json_object(meta).get("r")  # an adapter on experts alone: their ranks are stacked
    if not isinstance(rank, int):
        raise ValueError(f"{meta}: the adapter's rank r is missing or no number: {rank!r}")
    return rank, float(alpha)


def split_adapter(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Base weights under their plain names, and the adapter under the names that PEFT saves."""
    base, adapter = {}, {}
    for name, tensor in state.items():
        if "lora_" in name:
            adapter[name] = tensor
        else:
            base[name.removeprefix(PREFIX).replace(".base_layer.", ".")] = tensor
    return base, adapter


def fold(base: dict[str, torch.Tensor], adapter: dict[str, torch.Tensor], scale: float) -> None:
    """Add an adapter to its base weights, in place and in float32.

    Raises:
        ValueError: If the adapter has a part that is not LoRA of a linear layer or an embedding.
    """
    left = dict(adapter)
    for name in adapter:
        for down, up, transposed in ((A, B, False), (EMBEDDING_A, EMBEDDING_B, True)):
            if not name.endswith(down):
                continue
            stem = name.removesuffix(down)
            one, two = left.pop(name).float(), left.pop(stem + up).float()
            target = stem.removeprefix(PREFIX) + ".weight"
            if target not in base:
                raise ValueError(f"cannot fold {name}: {target} is not in the base model")
            delta = (two @ one).T if transposed else two @ one
            base[target] = (base[target].float() + scale * delta).to(base[target].dtype)
    if left:
        raise ValueError(f"cannot fold {next(iter(left))}: only LoRA of linear layers and embeddings is known")


def is_plain(state: dict[str, torch.Tensor]) -> bool:
    """Whether `fold` knows every part of an adapter; PEFT adapts the experts of a mixture in another way."""
    return not any(".experts." in name and "lora_" in name for name in state)


def fold_with_peft(
    state: dict[str, torch.Tensor], config_folder: Path, rank: int, alpha: float, targets: str = "all-linear"
) -> dict[str, torch.Tensor]:
    """Whole weights of a PEFT model, the adapter merged by PEFT itself; needs memory for the model once more.

    Args:
        state: Of the PEFT model.
        config_folder: Has the model's config.json.
        rank: Of the adapter.
        alpha: Of the adapter.
        targets: ``LORA_TARGETS`` of the run.

    Raises:
        ValueError: If the adapter is not one on those layers.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    model = auto_class(config_folder).from_config(
        read_config(config_folder), dtype=torch.float32, trust_remote_code=False
    )
    layers = targets if targets == "all-linear" else [part.strip() for part in targets.split(",")]
    peft = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers, task_type="CAUSAL_LM"))
    try:
        peft.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{config_folder.parent}: its adapter is not one on LORA_TARGETS={targets}: {error}"
        ) from error
    return dict(peft.merge_and_unload().state_dict())


def save_adapter(adapter: dict[str, torch.Tensor], folder: Path, rank: int, alpha: float, base_model: str) -> None:
    """Write an adapter as a PEFT folder, which vLLM and PEFT load next to the base model."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    modules = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in adapter})
    folder.mkdir(parents=True)
    alpha = int(alpha) if float(alpha).is_integer() else alpha
    LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=modules, task_type="CAUSAL_LM", base_model_name_or_path=base_model
    ).save_pretrained(folder)
    named = {name.replace(".default", ""): tensor.contiguous() for name, tensor in adapter.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    open_as_umask(folder, "*.safetensors", like="adapter_config.json")
