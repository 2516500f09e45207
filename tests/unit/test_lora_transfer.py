"""LoRA on its way to the CPU's rollout server: base plus folded adapter, float32, the trainer's own weights unmoved."""

from __future__ import annotations

import os

import pytest
import torch

RANK, ALPHA = 8, 16


@pytest.fixture
def one_process(monkeypatch):
    """A process group of this process alone."""
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "0"), ("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_the_server_gets_base_plus_adapter_in_float32(one_process):
    from peft import LoraConfig, get_peft_model
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoModelForCausalLM

    import common.cpu_backend.platform  # noqa: F401  (verl asks it for the device)
    from common.cpu_backend.engine import CpuEngineWithLMHead
    from common.demo_model import DEMO_MODEL_DIR

    os.environ.setdefault("VERL_PLATFORM", "cpu")
    base = AutoModelForCausalLM.from_pretrained(DEMO_MODEL_DIR, dtype=torch.float32)
    before = {name: tensor.clone().double() for name, tensor in base.state_dict().items()}
    model = get_peft_model(
        base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    torch.manual_seed(0)
    for name, tensor in model.named_parameters():
        if "lora_B" in name:  # starts at zero, where nothing could be told apart
            torch.nn.init.normal_(tensor, std=0.05)
    adapter = {name: tensor.detach().clone().double() for name, tensor in model.named_parameters() if "lora_" in name}
    for layer in model.base_model.model.model.layers:  # as verl does: merging goes layer by layer
        fully_shard(layer, mesh=one_process)
    fully_shard(model, mesh=one_process)

    engine = CpuEngineWithLMHead.__new__(CpuEngineWithLMHead)
    engine.module = model
    sent = dict(engine._merged_lora_per_tensor_param())  # looked at when the adapter has been taken out again

    assert set(sent) == set(before)
    moved = 0
    for name, tensor in sent.items():
        stem = "base_model.model." + name.removesuffix(".weight")
        expected = before[name]
        if f"{stem}.lora_A.default.weight" in adapter:
            a, b = (adapter[f"{stem}.lora_{side}.default.weight"] for side in "AB")
            expected = expected + ALPHA / RANK * (b @ a)
            moved += 1
        assert tensor.dtype == torch.float32 and not isinstance(tensor, torch.distributed.tensor.DTensor)
        assert (tensor.double() - expected).abs().max() < 1e-5, name
    assert moved == 4 * 7  # four layers of seven linear maps
    weight = model.state_dict()["base_model.model.model.layers.0.mlp.up_proj.base_layer.weight"].full_tensor()
    assert (weight.double() - before["model.layers.0.mlp.up_proj.weight"]).abs().max() < 1e-6
