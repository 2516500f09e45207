"""The kit's callback, which also writes down the weights of the rollout server, to compare them with the trainer's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
import torch

from common.callbacks import RunCallback
from common.checkpoints.shards import load_full_state


class WriteServerWeights(RunCallback):
    """At each save: the server's weights, which are those of the step before (weights travel after the save)."""

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs) -> None:
        """Write ``server_<step>.pt`` next to the checkpoints for each server."""
        folder = Path(self.config.trainer.default_local_dir).parent
        for rank in range(self.config.trainer.n_gpus_per_node):
            server = ray.get_actor(f"hf_server_{rank}_0")
            state = ray.get(
                server.__ray_call__.remote(lambda self: {k: v.clone() for k, v in self.model.state_dict().items()})
            )
            torch.save(state, folder / f"server_{global_step - 1}_{rank}.pt")
        super().on_save(trainer, global_step, checkpoint_dir, async_save, **kwargs)


def folded(checkpoint: Path, alpha: float, rank: int) -> dict[str, torch.Tensor]:
    """Base plus adapter of a checkpoint in float64, worked out here: W + alpha / rank x B A."""
    whole = {name: tensor.double() for name, tensor in load_full_state(checkpoint / "actor", torch.float64).items()}
    result = {}
    for name, tensor in whole.items():
        if "lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            stem = name.removesuffix(".base_layer.weight")
            a, b = (whole[f"{stem}.lora_{side}.default.weight"] for side in "AB")
            tensor = tensor + alpha / rank * (b @ a)
        result[name.replace("base_model.model.", "", 1).replace(".base_layer", "")] = tensor
    return result


def largest_difference(server: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference of two sets of weights; both must hold the same ones, tied ones aside."""
    missing = set(server) - set(expected) - {"lm_head.weight"}
    if missing or set(expected) - set(server):
        raise ValueError(f"not the same weights: {sorted(missing)} {sorted(set(expected) - set(server))}")
    return max(float((server[name].double() - tensor).abs().max()) for name, tensor in expected.items())
