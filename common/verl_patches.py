"""Patches of verl 0.9.1 that training on any device needs; loaded in each process of a run.

* verl/utils/torch_functional.py:175 takes the log-probabilities of a packed batch token by token in a Python loop
  where flash-attn is missing; that is half of the time of a training step. Chunks of tokens give the same numbers, and
  bfloat16 logits, which are what a GPU has, get float32 inside a chunk (benchmarks/log_probs.py has errors and times).

* verl/trainer/ppo/reward.py:30 and :39 call the reward function; an exception becomes a lost answer, of which nobody
  hears. The calls go through ``common.rewards.errors``, which counts them (RL only).

* verl/utils/model.py:645 loads the critic with flash-attention whatever the configuration says, so PPO cannot start
  where flash-attn is missing. The attention that the configuration names is used.

The others concern SFT, whose trainer has no hook at these places:

* verl/utils/checkpoint/checkpoint_handler.py:178 restores the data loader's position. At the end of an epoch that
  position is "no rows left", so a run resumed there trains nothing for a whole epoch, and with one epoch left ends
  with exit status 0. Such a state is left out: the loader starts the next epoch.
* verl/utils/checkpoint/checkpoint_handler.py:92 writes a checkpoint in its final place. When all ranks are done, the
  first one writes the marker that tells a complete checkpoint from a torn one (RL has a hook for it, common/callbacks).
* verl/trainer/sft_trainer.py:214 builds its ``DistributedSampler`` without a seed, and nothing seeds LoRA's random
  start, so ``trainer.seed`` moves nothing. The launcher's ``SEED`` is given to both.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.verl_source import expect_source

CHUNK_NUMBERS = 2**24  # logits in one call of logsumexp: bounds its temporary memory, as verl's loop does


def log_probs_in_chunks() -> None:
    """Replace verl's loop over rows by a loop over chunks of rows."""
    from verl.utils import torch_functional

    expect_source(
        torch_functional.logprobs_from_logits_v2,
        "torch.stack([torch.logsumexp(logit, dim=-1) for logit in logits])",
        "log-probabilities without flash-attn",
    )

    def log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return chunked_log_probs(logits, labels)

    torch_functional.logprobs_from_logits_v2 = log_probs


def chunked_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probability of each label: its logit less logsumexp of its row.

    Args:
        logits: Shape (..., vocabulary); any floating type.
        labels: Shape (...), int64.

    Returns:
        Shape (...); float64 for float64 logits, else float32.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    rows = max(1, CHUNK_NUMBERS // flat.shape[-1])
    return ChunkedLogProbs.apply(flat, labels.reshape(-1), rows).view(labels.shape)


class ChunkedLogProbs(torch.autograd.Function):
    """Log-probabilities in chunks of rows; the logits and one number a row are kept for the backward pass.

    autograd's own way through ``logsumexp`` keeps float32 copies of bfloat16 logits, three times their memory.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, rows: int) -> torch.Tensor:
        """Logits (rows, vocabulary), labels (rows,), rows of a chunk; returns (rows,)."""
        sums = torch.cat([exact(chunk).logsumexp(-1) for chunk in logits.split(rows)])
        picked = exact(logits.gather(-1, labels[:, None]).squeeze(-1))
        ctx.save_for_backward(logits, labels, sums)
        ctx.rows = rows
        return picked - sums

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Of a label's own logit 1 - p, of each other one -p, times the gradient of its row."""
        logits, labels, sums = ctx.saved_tensors
        out = torch.empty_like(logits)
        parts = (tensor.split(ctx.rows) for tensor in (logits, labels, sums, gradient, out))
        for logit, label, total, grad, target in zip(*parts, strict=True):
            part = (exact(logit) - total[:, None]).exp_().mul_(-grad[:, None])
            target.copy_(part.scatter_add_(-1, label[:, None], grad[:, None].to(part.dtype)))
        return out, None, None


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64 if it is that, else in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def count_reward_errors() -> None:
    """Call the reward function so that an exception is counted, written down and scored 0."""
    from verl.trainer.ppo import reward as verl_reward

    from common.rewards.errors import this_run

    for function, call in (
        (verl_reward._call_with_kwargs, "return raw_fn(*args, **merged_kwargs)"),
        (verl_reward._call_with_kwargs_async, "return await raw_fn(*args, **merged_kwargs)"),
    ):
        expect_source(function, call, "rewards that raise")
    errors = this_run()

    def call(raw_fn: Callable, extra: dict[str, Any], /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return errors.call(raw_fn, *args, **{**kwargs, **extra})

    async def call_async(raw_fn: Callable, extra: dict[str, Any], /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return await errors.call_async(raw_fn, *args, **{**kwargs, **extra})

    verl_reward._call_with_kwargs, verl_reward._call_with_kwargs_async = call, call_async


def critic_with_configured_attention() -> None:
    """Load the critic with the attention of its own configuration (``ATTENTION``) instead of flash-attention."""
    from verl.utils import model as verl_model

    original = verl_model.load_valuehead_model
    expect_source(original, 'attn_implementation="flash_attention_2"', "critic without flash-attn")

    def load(local_path: str, torch_dtype: torch.dtype, model_config: Any, trust_remote_code: bool) -> torch.nn.Module:
        attention = model_config._attn_implementation
        if attention == "flash_attention_2":
            return original(local_path, torch_dtype, model_config, trust_remote_code)
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_pretrained(
            local_path,
            dtype=torch_dtype,
            config=model_config,
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
        )

    verl_model.load_valuehead_model = load


def skip_loader_state_at_epoch_end() -> None:
    """Make a run that is resumed at the end of an epoch train the next one."""
    from verl.utils.checkpoint.checkpoint_handler import CheckpointHandler, extract_step

    original = CheckpointHandler._load_dataloader_state
    expect_source(original, "self.train_dataloader.load_state_dict(dataloader_state_dict)", "resume at an epoch's end")

    def load_unless_epoch_end(self: CheckpointHandler, checkpoint_path: str) -> None:
        step = extract_step(checkpoint_path)
        if step % len(self.train_dataloader) == 0:
            print(f"Step {step} ends an epoch: the data loader starts the next one")
            return
        original(self, checkpoint_path)

    CheckpointHandler._load_dataloader_state = load_unless_epoch_end


def mark_complete_checkpoints() -> None:
    """Write the marker of ``common.checkpoints.integrity`` after each save, and only then remove old checkpoints.

    verl removes them when the shards are written, before the rest of the checkpoint is there, and forgets after a
    resume which ones an earlier attempt has written. The original ends with a barrier.
    """
    from verl.utils.checkpoint.checkpoint_handler import CheckpointHandler

    from common.checkpoints.integrity import mark_complete
    from common.checkpoints.prune import remove, to_remove

    original = CheckpointHandler.save_checkpoint
    expect_source(original, "max_ckpt_to_keep = self.max_ckpt_to_keep", "checkpoints marked complete")

    def save_and_mark(self: CheckpointHandler, step: int) -> None:
        keep, self.max_ckpt_to_keep = self.max_ckpt_to_keep, None
        try:
            original(self, step)
        finally:
            self.max_ckpt_to_keep = keep
        if self.rank == 0:
            folder = Path(self.default_local_dir)
            mark_complete(folder / f"global_step_{step}", attempt=int(os.environ.get("ATTEMPT", "1")))
            for checkpoint, _ in to_remove(folder, keep) if keep else ():
                remove(checkpoint)

    CheckpointHandler.save_checkpoint = save_and_mark


def seed_sft(seed: int) -> None:
    """Give the seed to the order of the SFT rows and to torch's generator.

    Raises:
        RuntimeError: If verl's SFT trainer builds its sampler in another way by now.
    """
    from torch.utils.data import DistributedSampler

    source = Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "sft_trainer.py"
    expected = "self.train_dataset, shuffle=True, num_replicas=dp_size, rank=dp_rank, drop_last=True"
    if expected not in source.read_text(encoding="utf-8"):
        raise RuntimeError(f"{source} does not build its sampler as in verl 0.9.1; renew common/verl_patches.py")
    original = DistributedSampler.__init__

    def init_with_seed(self: DistributedSampler, *args: object, **kwargs: object) -> None:
        original(self, *args, **{"seed": seed, **kwargs})

    DistributedSampler.__init__ = init_with_seed
    torch.manual_seed(seed)


log_probs_in_chunks()
if os.environ.get("ALGORITHM") in ("grpo", "gspo", "ppo"):
    count_reward_errors()
if os.environ.get("ALGORITHM") == "ppo":
    critic_with_configured_attention()
if os.environ.get("ALGORITHM") in ("sft", "dpo"):
    skip_loader_state_at_epoch_end()
    mark_complete_checkpoints()
    seed_sft(int(os.environ.get("SEED", "0")))
