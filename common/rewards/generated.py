"""Tasks that reasoning-gym generates, scored by their own scorers.

A ground truth names the task and which of its rows it is, and the row is generated again: what a scorer looks at (sets,
tuples) does not pass through a file. The package is optional: ``pip install -r requirements/reasoning-gym.txt``.

Some scorers hand the answer to Python's ``eval`` or to sympy, which evaluates it too; a model could run programs with
it. Answers to these tasks are looked at first (`is_safe`), and what is no plain expression scores 0. A plain expression
can still be a number that never ends, so that sympy's tasks are scored in a process that is killed at a limit.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from common.answers.thought import behind_thought
from common.data.generator import VERSION, generated
from common.rewards.result import as_text, refuse, unusable
from common.rewards.structured import described
from common.worker import Worker, WorkerDied

WANTED = 'what `data_utils prepare reasoning-gym:TASK` writes: {"task": ..., "seed": ..., "size": ..., "index": ...}'
LONGEST = 10_000  # characters of an answer that is scored
EVALUATED = {"string_insertion", "spiral_matrix", "binary_matrix", "n_queens"}  # their answers go to eval
SYMBOLIC = {"simple_integration", "intermediate_integration", "polynomial_multiplication", "puzzle24", "countdown"}
LITERAL = re.compile(r"[\w\s.,'\"\[\]-]*")
EXPRESSION = re.compile(r"[\w\s.,+*/^()-]{0,1000}")
NAMES = frozenset("sin cos tan cot sec csc asin acos atan sinh cosh tanh exp log ln sqrt Abs pi E C Rational".split())
NAME = re.compile(r"[^\W\d]\w*")
# A power of a power, or one with a large exponent: most numbers that never end, told without a process.
TOWER = re.compile(r"(?:\*\*|\^)\s*(?:[\w.]+\s*(?:\*\*|\^)|\([^()]*(?:\*\*|\^)|\(?\s*-?\s*\d{3,})")

logger = logging.getLogger(__name__)
_worker = Worker("common.rewards.generated_worker")


def reasoning_gym(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict | None = None,
    timeout_s: float = 5.0,
    **kwargs: Any,
) -> dict[str, float]:
    """Scores an answer to a generated task with the task's own scorer.

    Source: Stojanovski et al. (Reasoning Gym), arXiv 2505.24760.

    Args:
        data_source: Column `data_source` of the row. Unused.
        solution_str: The model's answer: what stands in the last `<answer>...</answer>` behind the thought, else all.
        ground_truth: An object or JSON: `task`, `seed`, `size`, `index`, `answer`, and perhaps `config`.
        extra_info: Column `extra_info` of the row. Unused.
        timeout_s: Seconds that an answer which is an expression may take, above 0; it then scores 0, and a warning says
            so.
        **kwargs: What verl adds; anything else is refused.

    Returns:
        `score` from 0 to 1 as the task gives it; `acc`, 1.0 for a score of 1; `format`, 1.0 when there is an
        `<answer>`.

    Raises:
        ValueError: If the package is not installed or another version, or the row is not what it generates.
        WorkerNotStarted: If the process that scores expressions does not start.
    """
    if kwargs:
        refuse(kwargs, "reasoning_gym", "it has timeout_s")
    truth = described("reasoning_gym", ground_truth, WANTED)
    if not isinstance(truth, dict) or not {"task", "seed", "size", "index"} <= set(truth):
        raise unusable("reasoning_gym", ground_truth, WANTED)
    config = json.dumps(truth.get("config") or {}, sort_keys=True)
    row = (str(truth["task"]), int(truth["seed"]), int(truth["size"]), int(truth["index"]), config)
    dataset, entry = generated(*row)
    if "answer" in truth and truth["answer"] is not None and str(entry["answer"]) != str(truth["answer"]):
        raise ValueError(
            f"ground_truth: reasoning-gym {VERSION} generates another row {truth['index']} of {truth['task']} than the "
            "data holds; prepare the data again"
        )
    text = behind_thought(as_text(solution_str)) or ""
    inside = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    answer = (inside[-1] if inside else text).strip()
    score = 0.0
    if answer and len(answer) <= LONGEST and is_safe(str(truth["task"]), answer):
        expression = row[0] in SYMBOLIC
        score = _within(row, answer, timeout_s) if expression else float(dataset.score_answer(answer, entry=entry))
        score = min(1.0, max(0.0, score))
    return {"score": score, "acc": float(score == 1.0), "format": float(bool(inside))}


def _within(row: tuple[str, int, int, int, str], answer: str, timeout_s: float) -> float:
    try:
        return _worker.ask((row, answer), timeout_s)
    except TimeoutError:
        logger.warning("reasoning_gym: an answer took longer than %g s and scores 0: %.100r", timeout_s, answer)
    except WorkerDied as error:
        logger.warning("reasoning_gym: the scorer died of an answer, which scores 0: %.100r (%s)", answer, error)
    return 0.0


def is_safe(task: str, answer: str) -> bool:
    """Whether an answer may be given to a scorer that evaluates it; true for all tasks that do not."""
    if task in EVALUATED:
        return LITERAL.fullmatch(answer) is not None and "__" not in answer
    if task in SYMBOLIC:
        names = NAME.findall(answer)
        known = all(len(name) == 1 or name in NAMES for name in names)
        return EXPRESSION.fullmatch(answer) is not None and known and not TOWER.search(answer)
    return True
