"""Rewards made of rewards: a weighted sum, and one that chooses by data source.

Parameters come from verl's `reward.custom_reward_function.reward_kwargs`, for example

    +reward.custom_reward_function.reward_kwargs.weights='{gsm8k: 1.0, soft_overlong: 0.2}'
    +reward.custom_reward_function.reward_kwargs.params='{soft_overlong: {max_length: 1024, buffer: 256}}'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from common.rewards.choice import multiple_choice
from common.rewards.citations import citations
from common.rewards.constraints import constraints
from common.rewards.gsm8k import gsm8k
from common.rewards.json_schema import json_schema
from common.rewards.match import exact_match, format_match, normalized_match
from common.rewards.math_reward import math
from common.rewards.result import refuse
from common.rewards.shaping import language, linear_length, repetition, soft_overlong
from common.rewards.sql import sql

Parameters = Mapping[str, Mapping[str, Any]]  # reward -> parameter -> value


def code(data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any) -> Any:
    """Runs the program in an answer against its tests; see ``common.rewards.code``."""
    from common.rewards.code import code as run_tests

    return run_tests(data_source, solution_str, ground_truth, extra_info, **kwargs)


# The one table of rewards: the function, which is known by its name, and whether it compares with a ground truth.
_TABLE: tuple[tuple[Callable[..., Any], bool], ...] = (
    (gsm8k, True),
    (math, True),
    (code, True),
    (multiple_choice, True),
    (exact_match, True),
    (normalized_match, True),
    (constraints, True),
    (json_schema, True),
    (sql, True),
    (citations, True),
    (format_match, False),
    (soft_overlong, False),
    (linear_length, False),
    (repetition, False),
    (language, False),
)
REWARDS: dict[str, Callable[..., Any]] = {reward.__name__: reward for reward, _ in _TABLE}
NEEDS_NO_TRUTH = frozenset(reward.__name__ for reward, needs_truth in _TABLE if not needs_truth)

# Data source (with * for any text) -> reward. The names that verl's own default function knows, and a few more.
ROUTES = {
    "openai/gsm8k": "gsm8k",
    "gsm8k": "gsm8k",
    "demo/sums": "gsm8k",
    "DigitalLearningGmbH/MATH-lighteval": "math",
    "lighteval/MATH": "math",
    "HuggingFaceH4/MATH-500": "math",
    "EleutherAI/hendrycks_math": "math",
    "math": "math",
    "math_dapo": "math",
    "math_dapo_reasoning": "math",
    "aime*": "math",
    "numina_*": "math",
    "hiyouga/geometry3k": "math",
    "codecontests": "code",
    "apps": "code",
    "codeforces": "code",
    "taco": "code",
    "code": "code",
    "cais/mmlu": "multiple_choice",
    "TIGER-Lab/MMLU-Pro": "multiple_choice",
    "allenai/ai2_arc": "multiple_choice",
    "ceval/ceval-exam": "multiple_choice",
    "haonan-li/cmmlu": "multiple_choice",
    "choice": "multiple_choice",
    "google/IFEval": "constraints",
    "ifeval": "constraints",
    "json_schema": "json_schema",
    "sql": "sql",
    "spider": "sql",
    "bird": "sql",
    "citations": "citations",
    "searchR1_*": "normalized_match",
    "rajpurkar/squad": "normalized_match",
}


def combine(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    weights: Mapping[str, float] | None = None,
    params: Parameters | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """Scores the weighted sum of several rewards.

    score = sum of weight x score over `weights`.

    Args:
        data_source: Column `data_source` of the row.
        solution_str: The model's answer.
        ground_truth: Column `reward_model.ground_truth` of the row.
        extra_info: Column `extra_info` of the row.
        weights: Reward -> weight, e.g. `{"gsm8k": 1.0, "soft_overlong": 0.2}`; names as in this module's `REWARDS`, and
            `by_data_source`.
        params: Reward -> its parameters, e.g. `{"soft_overlong": {"max_length": 1024, "buffer": 256}}`.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score`, the score of each part under its name, and `acc` of the first part that has one.

    Raises:
        ValueError: If a reward is unknown, a weight is not a number, or a part cannot use its parameters or the row.
    """
    refuse(kwargs, "combine", "it has weights and params; the parameters of a part go into params")
    parts, params = _weights(weights), _params(params, weights or {})
    result: dict[str, float] = {"score": 0.0}
    for name, weight in parts.items():
        part = _reward(name)(data_source, solution_str, ground_truth, extra_info, **params.get(name, {}))
        details = part if isinstance(part, Mapping) else {"score": part}
        result[name] = float(details["score"])
        result["score"] += weight * result[name]
        if "acc" in details:
            result.setdefault("acc", float(details["acc"]))
    return result


def by_data_source(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    routes: Mapping[str, str] | None = None,
    params: Parameters | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """Scores each row with the reward of its data set, so that one run can mix them.

    Source: the names of verl's own `default_compute_score` (verl/utils/reward_score/__init__.py).

    Args:
        data_source: Column `data_source` of the row; decides which reward is used.
        solution_str: The model's answer.
        ground_truth: Column `reward_model.ground_truth` of the row.
        extra_info: Column `extra_info` of the row.
        routes: Data source -> reward, before those of `ROUTES`; `*` matches any text: `{"my/*": "math"}`.
        params: Reward -> its parameters, e.g. `{"math": {"boxed": True}}`.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score`, `acc` and `format`, whichever reward it was. One that reports only a score counts as right (`acc`)
        from 1.0 on, and as in form (`format`) above 0; for `code`, `format` is its `has_code`.

    Raises:
        ValueError: If the data source has no route, or its reward cannot use the row.
    """
    refuse(kwargs, "by_data_source", "it has routes and params; the parameters of a reward go into params")
    name = route(data_source, tuple((routes or {}).items()))
    part = _reward(name)(data_source, solution_str, ground_truth, extra_info, **_params(params, REWARDS).get(name, {}))
    details = part if isinstance(part, Mapping) else {"score": part}
    score = float(details["score"])
    return {
        "score": score,
        "acc": float(details.get("acc", score >= 1.0)),
        "format": float(details.get("format", details.get("has_code", score > 0.0))),
    }


# What REWARD_FUNC_NAME and --reward may name.
FUNCTIONS: dict[str, Callable[..., Any]] = {**REWARDS, "combine": combine, "by_data_source": by_data_source}


@lru_cache(maxsize=4096)
def route(data_source: str, extra: tuple[tuple[str, str], ...] = ()) -> str:
    """Returns the name of the reward for a data source.

    Args:
        data_source: Column `data_source` of a row.
        extra: Pairs of pattern and reward that go before `ROUTES`.

    Raises:
        ValueError: If there is none.
    """
    for pattern, name in (*extra, *ROUTES.items()):
        if isinstance(data_source, str) and fnmatchcase(data_source, pattern):
            return name
    known = ", ".join(dict.fromkeys((*dict(extra), *ROUTES)))
    raise ValueError(
        f"data_source={data_source!r}: by_data_source has no reward for it; it knows {known}. "
        f"Add it: routes={{{str(data_source)!r}: one of {', '.join(REWARDS)}}}"
    )


def _reward(name: str) -> Callable[..., Any]:
    reward = by_data_source if name == "by_data_source" else REWARDS.get(name)
    if reward is None:
        raise ValueError(f"{name!r} is not a reward; there are {', '.join(REWARDS)}")
    return reward


def _weights(weights: Mapping[str, float] | None) -> Mapping[str, float]:
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"weights={weights!r}: combine needs reward -> weight, e.g. {{'gsm8k': 1, 'repetition': 0.2}}")
    for name, weight in weights.items():
        _reward(name)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError(f"weights: {name}={weight!r}: the weight must be a number")
    return weights


def _params(params: Parameters | None, names: Mapping[str, Any]) -> Parameters:
    for name, values in (params or {}).items():
        if name not in names or not isinstance(values, Mapping):
            raise ValueError(f"params: {name}={values!r}: needs reward -> {{parameter: value}}, of {', '.join(names)}")
    return params or {}
