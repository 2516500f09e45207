"""Real FSDP2 shards of a small model, as the ranks of a run of any size would write them, made in one process.

A process group of torch's `fake` back end takes part as one rank after the other; sharding needs no communication.
"""

import json
from pathlib import Path

import torch
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoTokenizer

from common.demo_model import DEMO_MODEL_DIR


def write_checkpoint(model, path: Path, ranks: int, layout="sft", replicas: int = 1, lora_alpha: int = 0) -> Path:
    """Write `global_step_N` of a model as `ranks` processes of verl do.

    Args:
        model: A transformers or PEFT model; is not changed.
        path: .../checkpoints/global_step_N
        ranks: World size.
        layout: "sft" or "rl".
        replicas: Groups of ranks that hold the same (HSDP).
        lora_alpha: Written to lora_train_meta.json when above 0.
    """
    folder = path / "actor" if layout == "rl" else path
    (folder / "huggingface").mkdir(parents=True)
    for rank in range(ranks):
        state = shard_of(model, rank, ranks, replicas)
        torch.save(state, folder / f"model_world_size_{ranks}_rank_{rank}.pt")
        optimizer = {"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": []}
        torch.save(optimizer, folder / f"optim_world_size_{ranks}_rank_{rank}.pt")
        torch.save({"lr_scheduler": {}}, folder / f"extra_state_world_size_{ranks}_rank_{rank}.pt")
        if layout == "sft":
            torch.save({"rank": rank}, path / f"data_{rank}.pt")
    if layout == "rl":
        torch.save({"rank": 0}, path / "data.pt")
    (folder / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": ranks}))
    if lora_alpha:
        (folder / "lora_train_meta.json").write_text(json.dumps({"r": 8, "lora_alpha": lora_alpha}))
    model.config.save_pretrained(folder / "huggingface")
    config = folder / "huggingface" / "config.json"  # verl writes the attention of the training, which is not here
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attn_implementation": "flash_attention_2"}))
    AutoTokenizer.from_pretrained(DEMO_MODEL_DIR).save_pretrained(folder / "huggingface")
    return path


def shard_of(model, rank: int, ranks: int, replicas: int = 1) -> dict:
    """The state dictionary that one rank of FSDP2 holds, wrapped layer by layer as verl does."""
    import copy

    init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        names, shape = (("fsdp",), (ranks,)) if replicas == 1 else (("ddp", "fsdp"), (replicas, ranks // replicas))
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        copied = copy.deepcopy(model)
        for module in copied.modules():
            if type(module).__name__.endswith("DecoderLayer"):
                fully_shard(module, mesh=mesh)
        fully_shard(copied, mesh=mesh)
        return copied.state_dict()
    finally:
        destroy_process_group()
