"""A custom advantage estimator and policy loss: copy this file, change it, set ALGORITHM_PATH.

    ALGORITHM_PATH=grpo/my_algorithm.py ./grpo/train.sh

verl finds them by name (``register_adv_est``, ``register_policy_loss``), in every process of the run. ADV_ESTIMATOR and
POLICY_LOSS choose among several; a file with one of each needs neither knob. Delete what you do not change.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from verl.trainer.ppo.core_algos import agg_loss, register_adv_est, register_policy_loss
from verl.utils.torch_functional import masked_mean


@register_adv_est("best_of_group")
def best_of_group(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Any, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reward above the median of the group: a few lucky answers do not move the baseline as they move a mean.

    Args:
        token_level_rewards: Shape (answers, tokens); an answer's reward is at its last token.
        response_mask: Shape (answers, tokens); 1 where the model wrote the token.
        index: Group (prompt) of each answer.
        **kwargs: ``config`` (verl's ``algorithm``) and whatever later versions add.

    Returns:
        Advantages and returns, both of the shape (answers, tokens).
    """
    scores = token_level_rewards.sum(dim=-1)
    rows = defaultdict(list)
    for row, group in enumerate(index):
        rows[group].append(row)
    with torch.no_grad():
        advantages = torch.zeros_like(scores)
        for members in rows.values():
            advantages[members] = scores[members] - scores[members].quantile(0.5)
        advantages = advantages.unsqueeze(-1) * response_mask
    return advantages, advantages


@register_policy_loss("soft_clip")
def soft_clip(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The ratio through tanh, so that large steps fade out instead of being cut off.

    Args:
        old_log_prob: Of the policy that wrote the answers, shape (answers, tokens).
        log_prob: Of the policy now, with gradient, shape (answers, tokens).
        advantages: Shape (answers, tokens).
        response_mask: Shape (answers, tokens).
        loss_agg_mode: How token losses become one number; pass it on to ``agg_loss``.
        config: verl's ``actor_rollout_ref.actor``, with ``clip_ratio_high`` and ``global_batch_info``.
        rollout_is_weights: Weights of verl's rollout correction, or None.

    Returns:
        The loss, a scalar, and metrics.
    """
    width = config.clip_ratio_high
    log_ratio = log_prob - old_log_prob
    step = width * torch.tanh((torch.exp(log_ratio.clamp(-20, 20)) - 1) / width)
    losses = -advantages * (1 + step)
    if rollout_is_weights is not None:
        losses = losses * rollout_is_weights
    loss = agg_loss(loss_mat=losses, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info)
    return loss, {"actor/ppo_kl": masked_mean(-log_ratio, response_mask).detach().item()}
