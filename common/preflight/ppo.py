"""What only PPO has: the critic, and the KL that is measured in one of two places."""

from __future__ import annotations

import json
from pathlib import Path

from common.preflight.knobs import Knobs
from common.preflight.model import ModelInfo, read_model

CRITIC_TIMES = 10  # the critic starts from a random head, so it learns faster than the policy


def resolve_ppo(knobs: Knobs) -> None:
    """Choose the critic's learning rate and the horizon of an adapting KL; needs batch and learning rate."""
    if "CRITIC_LR" not in knobs:
        return
    try:
        rate = float(knobs["LEARNING_RATE"]) * CRITIC_TIMES
    except ValueError:  # refused already
        rate = 1e-5
    knobs.resolve("CRITIC_LR", f"{rate:g}", f"{CRITIC_TIMES} x LEARNING_RATE: its head starts from nothing")
    target = knobs["KL_TARGET"]
    if float(target or 0) > 0 and (knobs["KL_IN"] != "reward" or float(knobs["KL_COEF"] or 0) == 0):
        knobs.errors.append(f"KL_TARGET={target}: adapts KL_COEF of the reward; set KL_IN=reward and KL_COEF above 0")
    answers = max(1, knobs.number("BATCH_SIZE") * knobs.number("ROLLOUT_N"))
    knobs.resolve("KL_HORIZON", answers, "the answers of one step")


def check_critic(knobs: Knobs, model: ModelInfo | None, path: str) -> None:
    """Find the critic's model and compare its tokens with the policy's, whose token ids it will read.

    Args:
        knobs: Their ``CRITIC_MODEL_PATH`` becomes an absolute path.
        model: The policy.
        path: ``CRITIC_MODEL_PATH`` as found on this machine; empty for the policy's own.
    """
    given = knobs["CRITIC_MODEL_PATH"]
    if not given:
        knobs.values["CRITIC_MODEL_PATH"] = knobs["MODEL_PATH"]
        return
    try:
        critic = read_model(path)
    except (ValueError, OSError) as error:
        knobs.errors.append(str(error).replace("MODEL_PATH=", "CRITIC_MODEL_PATH=", 1))
        return
    knobs.values["CRITIC_MODEL_PATH"] = critic.path
    if not model or not model.config or not critic.config:
        return
    problem = other_tokens(model, critic)
    if problem:
        knobs.errors.append(
            f"CRITIC_MODEL_PATH={given}: {problem}; the critic reads the policy's token ids, so use a model of the "
            "same family, or leave it empty"
        )


def other_tokens(model: ModelInfo, other: ModelInfo) -> str | None:
    """Return how the tokenizer of another model differs, or None when the same ids mean the same text."""
    ours, theirs = (_tokens(Path(info.path)) for info in (model, other))
    if ours is None or theirs is None:
        if model.vocabulary != other.vocabulary:
            return f"it knows {other.vocabulary:,} tokens and the policy {model.vocabulary:,}"
        return None
    if ours == theirs:
        return None
    differ = sum(theirs.get(token) != number for token, number in ours.items())
    return f"its tokenizer differs from the policy's in {differ:,} of {len(ours):,} tokens" if differ else None


def _tokens(folder: Path) -> dict[str, int] | None:
    """Token -> id of a fast tokenizer with its added tokens, or None when there is none on this machine."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    read = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = read.get("model", {}).get("vocab")
    if not isinstance(vocabulary, dict):
        return None
    return {**vocabulary, **{token["content"]: token["id"] for token in read.get("added_tokens", [])}}
