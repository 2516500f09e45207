"""Started by torchrun in two processes: a model with its sequences shared by both against the same model alone.

verl's own functions cut and put together, as its engine does (workers/engine/fsdp/transformer_impl.py). Writes to
$PROBE_OUT the largest differences of the loss and of the gradients for each model that $PROBE_MODELS names.
"""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM
from verl.utils import ulysses

import common.hf_engine.varlen_attention  # noqa: F401  (registers sdpa_varlen)

LENGTHS = (5, 17, 1, 8)  # 31 tokens: verl fills up to 32


def make_model(settings):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 50}
    config = AutoConfig.for_model(**{**sizes, **settings}, attn_implementation="sdpa_varlen")
    return AutoModelForCausalLM.from_config(config)


def loss_and_gradients(model, ids, positions, weights, together):
    """The weighted sum of the log-probabilities of all tokens, with whole sequences or with a part of them."""
    labels, pad = ids.roll(-1, dims=1), 0
    ulysses.set_ulysses_sequence_parallel_group(together)
    if together is not None:
        size = dist.get_world_size(together)
        ids, positions, pad = ulysses.ulysses_pad_and_slice_inputs(ids, positions, size)
        labels, _, _ = ulysses.ulysses_pad_and_slice_inputs(labels, None, size)
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    picked = logits.log_softmax(-1).gather(-1, labels[0][:, None])[:, 0]
    picked = ulysses.gather_outputs_and_unpad(picked, gather_dim=0, unpad_dim=0, padding_size=pad)
    loss = (picked * weights).sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    if together is not None:
        for gradient in gradients:  # FSDP's mean over all processes
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size(together)
    ulysses.set_ulysses_sequence_parallel_group(None)
    return loss.detach(), gradients


def differences(settings):
    model = make_model(settings)
    ids = torch.randint(1, 50, (1, sum(LENGTHS)))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    weights = torch.randn(sum(LENGTHS))
    alone, shared = (
        loss_and_gradients(model, ids, positions, weights, together) for together in (None, dist.group.WORLD)
    )
    grads = [float((a - b).abs().max()) for a, b in zip(alone[1], shared[1], strict=True)]
    return abs(float(alone[0] - shared[0])), max(grads)


def main():
    dist.init_process_group("gloo")
    found = {name: differences(settings) for name, settings in json.loads(os.environ["PROBE_MODELS"]).items()}
    if dist.get_rank() == 0:
        Path(os.environ["PROBE_OUT"]).write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
