"""Instructions that a program can check: the 25 kinds of IFEval, in English and in Chinese.

The names and parameters are those of IFEval (Zhou et al., arXiv 2311.07911, table 1), so its rows, and those of data
sets made like it, can be used as they are. The checks are `common/rewards/constraint_checks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from common.answers.thought import behind_thought
from common.rewards.constraint_checks import CHECKS
from common.rewards.result import refuse, unusable
from common.rewards.structured import LONGEST, described

WANTED = (
    'instructions with their parameters: {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}, or a list '
    'such as [{"id": "length_constraints:number_words", "num_words": 50, "relation": "at least"}]'
)


def constraints(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    partial: bool = False,
    **kwargs: Any,
) -> dict[str, float]:
    """Scores 1.0 when an answer keeps all instructions that a program can check.

    Source: Zhou et al. (IFEval), arXiv 2311.07911; sentences and languages are told by rules of our own, see
        `common/rewards/constraint_checks.py`. Words of Chinese are its characters.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer; its thought is not looked at, and one without an end keeps nothing.
        ground_truth: The instructions, as an object, a list of objects, or JSON of them: IFEval's own
            `instruction_id_list` (or `instruction_id`) with `kwargs`, or objects with `id` and the parameters.
        extra_info: Column `extra_info` of the row. Unused.
        partial: Score the share that is kept, not all or nothing.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score`; `acc`, 1.0 when all are kept; `format`, 1.0 when there is an answer.

    Raises:
        ValueError: If the ground truth names no instruction, an unknown one, or a parameter is missing.
    """
    if kwargs:
        refuse(kwargs, "constraints", "it has partial")
    wanted = [(_check_of(name), parameters) for name, parameters in _instructions(ground_truth)]
    answer = (behind_thought(solution_str) or "")[:LONGEST].strip()
    try:
        kept = [bool(answer) and bool(check(answer, **parameters)) for check, parameters in wanted]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"ground_truth: a parameter of an instruction is missing or wrong: {error}") from error
    share = sum(kept) / len(kept)
    return {"score": share if partial else float(all(kept)), "acc": float(all(kept)), "format": float(bool(answer))}


def _check_of(name: Any) -> Any:
    if name not in CHECKS:
        raise ValueError(f"ground_truth: instruction {name!r} is not known; there are {', '.join(CHECKS)}")
    return CHECKS[name]


def _instructions(truth: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    found = described("constraints", truth, WANTED)
    count = 0
    for entry in found if isinstance(found, list) else [found]:
        if not isinstance(entry, dict):
            raise unusable("constraints", truth, WANTED)
        names = entry.get("instruction_id_list", entry.get("instruction_id", entry.get("id")))
        if isinstance(names, str):
            rest = {key: value for key, value in entry.items() if key not in ("id", "instruction_id", "kwargs")}
            names, values = [names], [entry.get("kwargs") or rest]
        else:
            values = entry.get("kwargs") or [{}] * len(names or ())
        if not names or len(names) != len(values):
            raise unusable("constraints", truth, WANTED)
        for name, parameters in zip(names, values, strict=True):
            count += 1
            yield name, {key: value for key, value in (parameters or {}).items() if value is not None}
    if not count:
        raise unusable("constraints", truth, WANTED)
