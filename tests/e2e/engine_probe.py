"""Under torchrun in the place of verl.trainer.sft_trainer: load a checkpoint with verl's own engine and measure it.

Writes to $PROBE_OUT the logits of a fixed input and the bytes that each rank holds: weights, gradients after a backward
pass, optimiser after a step. `resume_from_path` may be any folder with shards, also `actor/` of an RL run.
"""

import json
import os
from pathlib import Path

import hydra
import torch

TOKENS = torch.tensor([[5, 17, 40, 3, 99, 255, 7, 12]])


def local_bytes(tensors) -> int:
    """Bytes on this rank, of shards and of plain tensors."""
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


def measure(engine) -> dict[str, int]:
    """Train one step and count what this rank holds."""
    module, optimizer = engine.module, engine.optimizer
    optimizer.state.clear()
    module.train()
    module(input_ids=TOKENS).logits.float().logsumexp(-1).mean().backward()
    counted = {
        "weights": local_bytes(module.parameters()),
        "gradients": local_bytes(p.grad for p in module.parameters() if p.grad is not None),
    }
    optimizer.step()
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    return counted | {"optimizer": local_bytes(moments)}


@hydra.main(config_path="../../sft", config_name="config", version_base=None)
def main(config) -> None:
    """Load, measure, write."""
    from verl.trainer.sft_trainer import SFTTrainer
    from verl.utils.device import auto_set_device
    from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group

    auto_set_device(config)
    initialize_global_process_group()
    engine = SFTTrainer(config=config).engine
    engine.module.eval()
    with torch.no_grad():
        logits = engine.module(input_ids=TOKENS).logits
    counted = measure(engine)
    if torch.distributed.get_rank() == 0:
        out = Path(os.environ["PROBE_OUT"])
        torch.save(logits.float(), out.with_suffix(".pt"))
        out.write_text(json.dumps(counted))
    destroy_global_process_group()


if __name__ == "__main__":
    main()
