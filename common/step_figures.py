"""Figures of a training step that verl does not log, from its answers in the TransferQueue (verl's trainer/ppo/v1)."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from common.rewards.errors import KEY


def answers_of(batch: Any, *fields: str) -> tuple[list[str], dict[str, list[Any]]]:
    """The answers of a step, padding left out.

    Args:
        batch: verl's ``KVBatchMeta`` of the step.
        fields: What is asked of each answer, such as ``extra_fields``.

    Returns:
        The key of each answer, ``{uid}_{session}_{index}``, and of each field that is there its values in that order.
    """
    import transfer_queue as tq

    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    if not keys:
        return [], {}
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=list(fields))
    return keys, {name: _entries(data[name]) for name in fields if name in data}


def _entries(values: Any) -> list[Any]:
    """One entry an answer, whatever the storage gives: tensor, linked list, stack, array."""
    if isinstance(values, torch.Tensor):
        return list(values.unbind())
    return [getattr(one, "data", one) for one in values]


def extra_fields_of(batch: Any) -> list[dict[str, Any]]:
    """``extra_fields`` of each answer of a step."""
    return [entry for entry in answers_of(batch, "extra_fields")[1].get("extra_fields", []) if isinstance(entry, dict)]


def reward_figures(extra_fields: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Means of what the reward function returned next to the score, which verl logs in validation only.

    Returns:
        ``reward/<key>/mean`` of each key whose values are numbers, and ``reward/reward_error/count``, the answers whose
        reward raised, where the run counts them.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for fields in extra_fields:
        for key, value in (fields.get("reward_extra_info") or {}).items():
            if key != "score" and isinstance(value, (int, float)) and math.isfinite(value):
                values[key].append(float(value))
    figures = {f"reward/{key}/mean": sum(numbers) / len(numbers) for key, numbers in values.items()}
    return figures | ({f"reward/{KEY}/count": sum(values[KEY])} if KEY in values else {})


def spread_figures(keys: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """How far the scores are apart: over all answers, and over the answers to one question.

    Args:
        keys: ``{uid}_{session}_{index}`` of each answer; of several outputs of one session the last counts.
        scores: Of each answer.

    Returns:
        ``critic/score/std``, the standard deviation of all scores, and ``critic/score/group_std``, its mean over the
        groups of at least two answers; both divide by n - 1, as GRPO does. ``critic/score/dead_groups``, the share of
        those groups whose answers all score the same. Empty where there is too little.
    """
    sessions: dict[str, float] = {}
    for key, score in zip(keys, scores, strict=True):
        sessions[key.rsplit("_", 1)[0]] = score
    groups: dict[str, list[float]] = defaultdict(list)
    for session, score in sessions.items():
        groups[session.rsplit("_", 1)[0]].append(score)
    if len(sessions) < 2 or not all(math.isfinite(score) for score in sessions.values()):
        return {}
    figures = {"critic/score/std": statistics.stdev(sessions.values())}
    within = [statistics.stdev(group) for group in groups.values() if len(group) > 1]
    if within:
        figures["critic/score/group_std"] = sum(within) / len(within)
        figures["critic/score/dead_groups"] = sum(spread == 0 for spread in within) / len(within)
    return figures
