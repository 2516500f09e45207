"""What every reward function here shares: its result, and its answer to input that it cannot use."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from common.answers import accepted

# What verl itself adds when a reward model runs next to the function (reward_manager/naive.py).
FROM_VERL = {"reward_router_address", "reward_model_tokenizer"}


def scored(correct: bool, found: bool) -> dict[str, float]:
    """Builds the result of a reward that judges an answer; the keys are the same on every row, as verl requires.

    Args:
        correct: The answer is right.
        found: The answer has the expected form, right or wrong.

    Returns:
        `score` (what is trained on) and `acc`, 1.0 or 0.0, and `format`, 1.0 when an answer was found.
    """
    return {"score": float(correct), "acc": float(correct), "format": float(found)}


def as_text(answer: Any) -> str:
    """Returns the model's answer, or "" for anything that is not a string: nothing in it can be right."""
    return answer if isinstance(answer, str) else ""


def refuse(kwargs: Mapping[str, Any], reward: str, known: str) -> None:
    """Refuses parameters that a reward does not have: a misspelled one would otherwise change nothing, silently.

    Args:
        kwargs: What the reward got in addition to its own parameters.
        reward: Its name, for the message.
        known: Its parameters, for the message; "" for none.

    Raises:
        ValueError: If there is one that verl does not add by itself.
    """
    for name, value in kwargs.items():
        if name not in FROM_VERL:
            raise ValueError(f"{name}={reprlib.repr(value)}: {reward} has no such parameter; {known or 'it has none'}")


def unusable(reward: str, truth: Any, expected: str) -> ValueError:
    """Returns the error for a ground truth that a reward cannot use.

    Args:
        reward: Name of the reward.
        truth: Column `reward_model.ground_truth` of the row.
        expected: What it must be.
    """
    kind = "" if isinstance(truth, str) else f" ({type(truth).__name__})"
    return ValueError(f"ground_truth={reprlib.repr(truth)}{kind}: {reward} needs {expected}; repair or drop the row")


def truth_key(reward: str, truth: Any, expected: str) -> tuple:
    """Returns the accepted answers of a ground truth that is not a text, in a form that a cache can keep.

    Args:
        reward: Name of the reward.
        truth: Number, list, array or object.
        expected: What it must be, for the message.

    Raises:
        ValueError: If it holds no answer.
    """
    try:
        return tuple(accepted(truth))
    except ValueError as error:
        raise unusable(reward, truth, expected) from error
