"""IFEval's own grader as a reward: which of the instructions of a prompt an answer follows.

Source: Zhou et al., arXiv 2311.07911; the grader is Google's, in the copy that lm-evaluation-harness carries.
"""

from __future__ import annotations

import json
from typing import Any

INSTALL = "pip install -r requirements/lm-eval.txt"


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    """Score one answer.

    Args:
        data_source: Unused.
        solution_str: The model's answer.
        ground_truth: A row of the set as JSON: ``key``, ``prompt``, ``instruction_id_list``, ``kwargs``.
        extra_info: Unused.
        **kwargs: Unused.

    Returns:
        ``score`` and ``acc``: 1.0 when every instruction is followed, strictly; ``loose``: the same by the lenient
        reading; ``instructions``: share of the instructions.

    Raises:
        ValueError: If the grader is not installed.
    """
    try:
        from lm_eval.tasks.ifeval.utils import process_results
    except ImportError as error:
        raise ValueError(f"IFEval's grader is not installed ({error}); {INSTALL}") from error
    from common.answers import behind_thought

    found = process_results(json.loads(ground_truth), [behind_thought(solution_str) or ""])
    strict = float(found["prompt_level_strict_acc"])
    followed = found["inst_level_strict_acc"]
    return {
        "score": strict,
        "acc": strict,
        "loose": float(found["prompt_level_loose_acc"]),
        "instructions": sum(followed) / len(followed),
    }
