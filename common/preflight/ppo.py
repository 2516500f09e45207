"""What only PPO has: the critic, and the KL that is measured in one of two places."""

from __future__ import annotations

import math
from pathlib import Path

from common.preflight.findings import problem_of
from common.preflight.knobs import Knobs
from common.preflight.model import ModelInfo, read_model
from common.small_files import MAX_TOKENIZER, read_json_object

CRITIC_TIMES = 10  # the critic starts from a random head, so it learns faster than the policy
KL_FIXED = 0.001
# Model types that transformers gives a head for values (AutoModelForTokenClassification); a test compares the list.
# fmt: off
VALUE_HEADS = (
    "apertus", "arcee", "bert", "big_bird", "biogpt", "bloom", "camembert", "data2vec-text", "deepseek_v3", "diffllama",
    "electra", "ernie", "exaone4", "falcon", "gemma", "gemma2", "glm", "glm4", "gpt-sw3", "gpt2", "gpt_bigcode",
    "gpt_neo", "gpt_neox", "gpt_oss", "helium", "llama", "megatron-bert", "minimax", "ministral", "ministral3",
    "mistral", "mixtral", "mpt", "nemotron", "persimmon", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_5",
    "qwen3_moe", "qwen3_next", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "seed_oss",
    "smollm3", "stablelm", "starcoder2", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod",
)
# fmt: on
# Of these, those whose head is the same in a classifier (AutoModelForSequenceClassification).
# fmt: off
SCORE_HEADS = (
    "arcee", "deepseek_v3", "diffllama", "exaone4", "gemma", "gemma2", "glm", "glm4", "gpt_oss", "helium", "llama",
    "minimax", "ministral", "ministral3", "mistral", "mixtral", "nemotron", "persimmon", "phi", "phi3", "qwen2",
    "qwen2_moe", "qwen3", "qwen3_5", "qwen3_moe", "qwen3_next", "seed_oss", "smollm3", "stablelm", "starcoder2",
)
# fmt: on
SPREAD = 0.5  # standard deviation of a score from 0 to 1 that is right half of the time
HORIZON = 10  # steps; faster, and it swings, for the policy answers to the coefficient with a delay of some steps


def resolve_ppo(knobs: Knobs) -> None:
    """Choose the critic's learning rate and the KL's coefficient; needs batch, lengths, schedule and learning rate."""
    if "CRITIC_LR" not in knobs:
        return
    rate = (knobs.decimal("LEARNING_RATE") or 1e-6) * CRITIC_TIMES
    knobs.resolve("CRITIC_LR", f"{rate:g}", f"{CRITIC_TIMES} x LEARNING_RATE: its head starts from nothing")
    resolve_kl(knobs)


def resolve_kl(knobs: Knobs) -> None:
    """Choose the KL's coefficient, and how fast it adapts where there is a target."""
    target = knobs.decimal("KL_TARGET")
    if target and (knobs["KL_IN"] != "reward" or knobs.decimal("KL_COEF") == 0):
        knobs.error("KL_TARGET", "adapts KL_COEF of the reward", "set KL_IN=reward and KL_COEF=auto")
    if target:
        length = knobs.number("MAX_RESPONSE_LENGTH")
        reason = f"holds {target:g} nats a token over {length:,} tokens against a score from 0 to 1"
        knobs.resolve("KL_COEF", f"{first_coefficient(target, length):.2g}", reason)
    knobs.resolve("KL_COEF", KL_FIXED, "a light pull")
    answers = max(1, knobs.number("BATCH_SIZE") * knobs.number("ROLLOUT_N"))
    knobs.resolve("KL_HORIZON", HORIZON * answers, f"the answers of {HORIZON} steps")


def first_coefficient(target: float, length: int) -> float:
    """The coefficient from which an adapting KL starts.

    The policy that is best under a KL penalty is the starting model times exp(score / coefficient) (Rafailov et al.,
    arXiv 2305.18290, eq. 4). Up to the second order its KL to the starting model is Var(score) / (2 coefficient^2);
    this solves that for the coefficient.

    Args:
        target: Nats a token.
        length: Tokens of an answer.
    """
    return SPREAD / math.sqrt(2 * target * max(1, length))


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
        _check_value_head(knobs, model, given)
        return
    try:
        critic = read_model(path)
    except (ValueError, OSError) as error:
        knobs.error("CRITIC_MODEL_PATH", problem_of(error), value=given)
        return
    knobs.values["CRITIC_MODEL_PATH"] = critic.path
    _check_value_head(knobs, critic, given)
    if not model or not model.config or not critic.config:
        return
    problem = other_tokens(model, critic)
    if problem:
        knobs.error(
            "CRITIC_MODEL_PATH",
            problem,
            "the critic reads the policy's token ids, so use a model of the same family, or leave it empty",
            value=given,
        )


def check_reward_head(knobs: Knobs, model: ModelInfo | None) -> None:
    """A reward model is trained as a value model and served as a classifier; both must have the same head."""
    kind = model.config.get("model_type") if model and knobs.algorithm == "reward_model" else None
    if kind and kind not in SCORE_HEADS and "auto_map" not in model.config:
        knobs.error(
            "MODEL_PATH",
            f"a {kind} has no head that transformers reads both at each token and at the last one",
            "start from another family (a llama or a qwen3, say); the policy may be any, a reward model reads text",
            value=model.path,
        )


def _check_value_head(knobs: Knobs, critic: ModelInfo | None, given: str) -> None:
    kind = critic.config.get("model_type") if critic else None
    if kind and kind not in VALUE_HEADS and "auto_map" not in critic.config:
        knobs.error(
            "CRITIC_MODEL_PATH",
            f"a {kind} has no head for values in transformers (AutoModelForTokenClassification)",
            "name a model with the same tokenizer that has one (a llama or a qwen3, say), or train with grpo/train.sh, "
            "which needs no critic",
            value=given or critic.path,
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
    read = read_json_object(file, MAX_TOKENIZER)
    vocabulary = read.get("model", {}).get("vocab")
    if not isinstance(vocabulary, dict):
        return None
    return {**vocabulary, **{token["content"]: token["id"] for token in read.get("added_tokens", [])}}
