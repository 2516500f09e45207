"""HumanEval's tests as a reward: the answer is run behind what stands above the function in the prompt.

Source: Chen et al., arXiv 2107.03374, whose grader runs prompt + completion + test. A chat model writes the whole
function instead, often without the prompt's imports and helpers; an answer that is the body alone continues the prompt.
"""

from __future__ import annotations

import re
from typing import Any

from common.rewards.code import code, extract_program


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, float]:
    """Score one answer.

    Args:
        data_source: Unused.
        solution_str: The model's answer.
        ground_truth: ``prompt``, ``test`` and ``entry_point`` of the row.
        extra_info: Unused.
        **kwargs: Parameters of ``common.reward_functions.code``.

    Returns:
        As ``code``.
    """
    program = extract_program(solution_str)
    if program is not None:
        prompt, name = ground_truth["prompt"], ground_truth["entry_point"]
        whole = re.search(rf"^(?:async )?def {re.escape(name)}\b", program, re.MULTILINE)
        above = prompt[: prompt.rindex(f"def {name}")] if whole else prompt
        solution_str = f"```python\n{above}\n{program}\n```"
    return code(data_source, solution_str, ground_truth, extra_info, **kwargs)
