"""What one batch of pairs gives: the loss that verl's engine asks for, and each pair's numbers for the metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from tensordict import TensorDict

from dpo.losses import LossOptions, PairLogps, preference_loss

Records = TypeVar("Records")
SEQUENCES = 2  # a pair is two sequences, chosen and rejected, next to each other


@dataclass
class PairRecords:
    """Numbers of pairs, one list entry each, in the same order.

    Args:
        pair: Number of the pair in its dataset.
        pair_loss: Its loss.
        chosen_reward: Implicit reward of the chosen answer.
        rejected_reward: Of the rejected one.
        chosen_logp: Summed log-probability of the chosen answer.
        rejected_logp: Of the rejected one.
        chosen_tokens: Tokens of the chosen answer.
        rejected_tokens: Of the rejected one.
    """

    pair: list[int]
    pair_loss: list[float]
    chosen_reward: list[float]
    rejected_reward: list[float]
    chosen_logp: list[float]
    rejected_logp: list[float]
    chosen_tokens: list[float]
    rejected_tokens: list[float]


def answer_logps(log_probs: torch.Tensor, loss_mask: torch.Tensor) -> torch.Tensor:
    """Summed log-probability of each sequence's answer.

    Args:
        log_probs: Nested, shape (sequences, tokens): at position t the log-probability of token t + 1.
        loss_mask: Nested, shape (sequences, tokens): 1 at the tokens of the answer.

    Returns:
        Shape (sequences,), float64: a sum over thousands of tokens has errors in float32 that the loss would show.
    """
    # Position t predicts token t + 1, so the mask moves one to the left; what wraps around is the next prompt's 0.
    mask = torch.roll(loss_mask.values(), shifts=-1, dims=0)
    flat = log_probs.values().double() * mask
    lengths = loss_mask.offsets().diff()
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=flat.device), lengths)
    return torch.zeros(len(lengths), device=flat.device, dtype=flat.dtype).index_add(0, owner, flat)


def pair_loss(
    options: LossOptions, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, list[float]]]:
    """The loss function that verl's engine calls for every micro-batch.

    Args:
        options: The loss.
        model_output: ``log_probs``, nested, of the shape (2 x pairs, tokens).
        data: Micro-batch with ``loss_mask``, ``pair``, ``ref_logps`` (2 x pairs,) and, not as tensors,
            ``global_batch_size`` (pairs of the whole batch on all ranks) and ``dp_size``.
        dp_group: Ranks with other pairs. Unused.

    Returns:
        The micro-batch's share of the mean loss over the whole batch (times ``dp_size``, since FSDP averages the ranks'
        gradients), and the numbers of its pairs.
    """
    mask = data["loss_mask"]
    logps = answer_logps(model_output["log_probs"], mask)
    tokens = torch.stack([sequence.sum() for sequence in mask.unbind()]).to(logps.dtype)
    reference = data["ref_logps"].to(logps.device)
    pairs = PairLogps(logps[0::2], logps[1::2], reference[0::2], reference[1::2], tokens[0::2], tokens[1::2])
    result = preference_loss(pairs, options)
    records = PairRecords(
        pair=data["pair"][0::2].tolist(),
        pair_loss=result.loss.tolist(),
        chosen_reward=result.chosen_reward.tolist(),
        rejected_reward=result.rejected_reward.tolist(),
        chosen_logp=pairs.chosen.tolist(),
        rejected_logp=pairs.rejected.tolist(),
        chosen_tokens=pairs.chosen_tokens.tolist(),
        rejected_tokens=pairs.rejected_tokens.tolist(),
    )
    return result.loss.sum() / data["global_batch_size"] * data["dp_size"], asdict(records)


def gather_records(metrics: dict[str, Any], kind: type[Records] = PairRecords) -> Records:
    """Take the pairs' numbers out of the metrics of all ranks and micro-batches.

    Args:
        metrics: Of ``TrainingWorker``; lists of lists, however deep, one level for each rank and micro-batch.
        kind: Dataclass of the numbers, all of them lists.
    """
    return kind(**{name: list(_flat(metrics.pop(name))) for name in kind.__dataclass_fields__})


def distinct(outputs: list[Records]) -> Records:
    """All pairs of some batches, each once in the order of their numbers (ranks are filled up with others' pairs)."""
    kind = type(outputs[0])
    merged = {
        name: [value for output in outputs for value in getattr(output, name)] for name in kind.__dataclass_fields__
    }
    first = {pair: index for index, pair in reversed(list(enumerate(merged["pair"])))}
    chosen = [first[pair] for pair in sorted(first)]
    return kind(**{name: [values[index] for index in chosen] for name, values in merged.items()})


def _flat(value: Any) -> Any:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def means(records: PairRecords) -> dict[str, float]:
    """`reward_means`, and the log-probabilities of both answers."""
    count = len(records.pair)
    logps = {"logps/chosen": sum(records.chosen_logp) / count, "logps/rejected": sum(records.rejected_logp) / count}
    return {**reward_means(records), **logps}


def reward_means(records: Any) -> dict[str, float]:
    """Metrics of some pairs under the names that people know from other trainers; a tie is half a success.

    Args:
        records: Lists ``pair_loss``, ``chosen_reward`` and ``rejected_reward`` of the shape (pairs,).
    """
    count = len(records.pair_loss)
    margins = [c - r for c, r in zip(records.chosen_reward, records.rejected_reward, strict=True)]
    return {
        "loss": sum(records.pair_loss) / count,
        "rewards/chosen": sum(records.chosen_reward) / count,
        "rewards/rejected": sum(records.rejected_reward) / count,
        "rewards/margins": sum(margins) / count,
        "rewards/accuracies": sum(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins) / count,
    }
