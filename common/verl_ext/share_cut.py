"""RL: the share of answers that were cut counts those at the limit, not those as long as the longest of the batch.

Target: `PPOTrainer._compute_metrics`, verl/trainer/ppo/v1/trainer_base.py:1868; the width of the batch is taken for the
limit in `compute_data_metrics`, verl/trainer/ppo/metric_utils.py:429.

Upstream: https://github.com/verl-project/verl/issues/7817 (open), fix in https://github.com/verl-project/verl/pull/7821
(open).

Until: verl has that fix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def replacement(original: Callable[..., None]) -> Callable[..., None]:
    """The original, then the share put right."""

    def compute_and_correct(self: Any, batch: Any, metrics: dict, *args: Any, **kwargs: Any) -> None:
        original(self, batch, metrics, *args, **kwargs)
        metrics.update(share_cut(metrics, self.config.data.max_response_length))

    return compute_and_correct


def share_cut(metrics: dict[str, Any], limit: int) -> dict[str, float]:
    """The share of answers that ended at the limit, where verl counts those as long as the longest of the batch.

    Args:
        metrics: verl's of a step.
        limit: ``data.max_response_length``.

    Returns:
        What is to be replaced in ``metrics``; empty when the longest answer reached the limit, as verl is right then.
    """
    if metrics.get("response_length/max", limit) >= limit:
        return {}
    names = ("response_length/clip_ratio", "response_length_non_aborted/clip_ratio")
    return {name: 0.0 for name in names if name in metrics}
