"""verl's replay buffer with a short poll, on any device.

verl/trainer/ppo/v1/replay_buffer.py asks TransferQueue every 2 s whether the step's answers are there. Steps of a
small model last about that long, so the wait would double them. verl gives a custom sampler no filter-group
arguments (`PPOTrainer._build_replay_buffer`); they come through ``sampler_kwargs`` here, so that DAPO's dynamic
sampling works.
"""

from __future__ import annotations

import gc
from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

POLL_SECONDS = 0.05


def fast_poll(**kwargs: Any) -> ReplayBuffer:
    """The replay buffer that verl would build for this trainer mode, polling every 0.05 s.

    Args:
        **kwargs: What verl passes to a custom sampler. ``sampler_kwargs`` holds ``filter_groups``
            (verl's ``algorithm.filter_groups``), ``train_batch_size``, ``gen_batch_size`` and
            ``sync_refill_failed_groups``.
    """
    given = kwargs["sampler_kwargs"]
    groups = given.filter_groups
    metric = str(groups.metric) if groups.enable else None
    shared = {
        "poll_interval": POLL_SECONDS,
        "filter_groups_metric": metric,
        "sync_refill_failed_groups": given.sync_refill_failed_groups,
    }
    gc.freeze()  # this is the trainer's process: see engine.py
    if kwargs["trainer_mode"] != "sync":
        return ReplayBufferAsync(**kwargs, **shared)
    single = metric is not None or given.sync_refill_failed_groups
    return ReplayBuffer(
        **kwargs,
        **shared,
        train_batch_size=given.train_batch_size,
        gen_batch_size=1 if single else given.gen_batch_size or given.train_batch_size,
        max_inflight_gen_batches=groups.max_inflight_gen_batches if metric is not None else 1,
    )
