"""A rough time a step: a number to plan a day with, within a factor of two."""

from __future__ import annotations

from common.plan.fit import Fit
from common.plan.memory import COMPUTE

TRAIN_SHARE = 0.35  # of the card's dense bfloat16 peak that training reaches (MFU), usual for FSDP
FORWARD_SHARE = 0.45
DECODE_SHARE = 0.5  # of its memory bandwidth that decoding reaches
OVERHEAD = 5.0  # seconds of a step of RL: Ray, data, weight hand-over
OFFLOAD_BANDWIDTH = 12e9  # bytes a second between host and GPU


def seconds_per_step(fit: Fit, batch: int, answers: int, prompt: int, response: int) -> dict[str, float]:
    """Seconds of each phase of one step.

    A weight costs 2 operations a token forward and 4 backward (Kaplan et al., arXiv 2001.08361), and 2 more where
    activations are computed again. Decoding reads all weights of an engine once for each token of its longest answer.

    Args:
        fit: Settings.
        batch: Rows a step.
        answers: Answers to each; 1 without generation.
        prompt: Tokens of a usual prompt, 0 for conversations.
        response: Tokens of a usual answer, or of a conversation.
    """
    setup = fit.setup
    _, teraflops, terabytes = setup.gpus.card
    power, count = teraflops * 1e12, setup.gpus.count
    tokens = batch * answers * (prompt + response)
    work = 2 * setup.model.active * tokens
    again = 1 if setup.checkpointing else 0
    phases = {"training": (3 + again) * work / (count * power * TRAIN_SHARE)}
    if not setup.rollout:
        if setup.reference:
            phases["reference"] = work / (count * power * FORWARD_SHARE)
        return phases
    phases["log-probabilities"] = (1 + setup.reference) * work / (count * power * FORWARD_SHARE)
    engines = count / setup.tensor_parallel
    reading = response * COMPUTE * setup.model.parameters / (setup.tensor_parallel * terabytes * 1e12 * DECODE_SHARE)
    waves = max(1.0, batch * answers / engines * (prompt + response) / max(1, fit.memory.kv_tokens))
    phases["generation"] = max(reading * waves, work / (count * power * FORWARD_SHARE))
    if setup.critic:
        phases["critic"] = phases["training"]
    phases["the rest"] = OVERHEAD + fit.memory.host.get("offloaded", 0) * 2 / (setup.gpus.per_node * OFFLOAD_BANDWIDTH)
    return phases
