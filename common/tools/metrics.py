"""Calls and turns of each step among verl's metrics, which count turns only."""

from __future__ import annotations

from typing import Any

from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from common.step_figures import extra_fields_of
from common.verl_source import expect_source


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


def report_tools() -> None:
    """Add the metrics to those of verl's trainer."""
    original = PPOTrainer._compute_metrics
    expect_source(original, '"training/num_turns/mean": num_turns.mean()', "metrics of tools")

    def compute_metrics(self: PPOTrainer, batch: Any, metrics: dict[str, float], *args: Any, **kwargs: Any) -> None:
        metrics.update(tool_metrics(extra_fields_of(batch)))
        original(self, batch, metrics, *args, **kwargs)

    PPOTrainer._compute_metrics = compute_metrics


report_tools()
