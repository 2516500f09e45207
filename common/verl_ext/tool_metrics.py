"""Calls of tools are among verl's metrics of each step, which count turns only.

Target: `PPOTrainer._compute_metrics`, verl/trainer/ppo/v1/trainer_base.py:1868.

Upstream: no issue known.

Until: verl logs the calls of an agent loop, or means of numbers in ``extra_fields``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.step_figures import extra_fields_of


def tool_metrics(extra_fields: list[dict[str, Any]]) -> dict[str, float]:
    """Metrics of a batch.

    Args:
        extra_fields: Of each answer; those of ``KitToolAgentLoop`` hold ``tool_calls`` and ``tool_failures``.

    Returns:
        ``tools/calls/mean`` (calls per answer), ``tools/calls/max``, ``tools/used`` (share of answers with a call) and
        ``tools/failures`` (share of calls that failed).
    """
    calls = [fields.get("tool_calls", 0) for fields in extra_fields]
    failures = sum(fields.get("tool_failures", 0) for fields in extra_fields)
    total = sum(calls)
    return {
        "tools/calls/mean": total / max(1, len(calls)),
        "tools/calls/max": max(calls, default=0),
        "tools/used": sum(count > 0 for count in calls) / max(1, len(calls)),
        "tools/failures": failures / max(1, total),
    }


def replacement(original: Callable[..., None]) -> Callable[..., None]:
    """The original, after the metrics of tools."""

    def compute_metrics(self: Any, batch: Any, metrics: dict[str, float], *args: Any, **kwargs: Any) -> None:
        metrics.update(tool_metrics(extra_fields_of(batch)))
        original(self, batch, metrics, *args, **kwargs)

    return compute_metrics
