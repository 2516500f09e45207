r"""What one batch of pairs gives: the Bradley-Terry loss of their scores, and how good the scores are.

With s_w the score of the chosen answer, s_l of the rejected one, m the margin of the row and c the centring:

    loss = -log sigmoid(s_w - s_l - m) + c (s_w + s_l)^2

Sources: Ouyang et al., arXiv 2203.02155, equation 1; the margin as in Llama 2, arXiv 2307.09288, equation 2; the
centring as in Eisenstein et al., arXiv 2312.09244, equation 2.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict

BINS = 10  # of the model's confidence, from 0.5 to 1


@dataclass(frozen=True)
class ScoreOptions:
    """What the loss needs beside the scores.

    Args:
        center_coef: Weight c of the centring, 0 for none.
        margin: Whether the rows' margins count.
    """

    center_coef: float = 0.01
    margin: bool = True


@dataclass
class ScoreRecords:
    """Numbers of pairs, one list entry each, in the same order.

    Args:
        pair: Number of the pair in its dataset.
        pair_loss: Its loss.
        chosen_reward: Score of the chosen answer.
        rejected_reward: Of the rejected one.
        chosen_tokens: Tokens of the chosen conversation.
        rejected_tokens: Of the rejected one.
    """

    pair: list[int]
    pair_loss: list[float]
    chosen_reward: list[float]
    rejected_reward: list[float]
    chosen_tokens: list[int]
    rejected_tokens: list[int]


def last_values(values: torch.Tensor) -> torch.Tensor:
    """The value at the last token of each sequence, which is what a sequence classifier gives.

    Args:
        values: Nested, of the shape (sequences, tokens).

    Returns:
        Shape (sequences,), float64.
    """
    return values.values()[values.offsets()[1:] - 1].double()


def score_loss(
    options: ScoreOptions, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, list[float]]]:
    """The loss function that verl's engine calls for every micro-batch.

    Args:
        options: The loss.
        model_output: ``values``, nested, of the shape (2 x pairs, tokens).
        data: Micro-batch with ``input_ids``, ``pair``, ``margin`` (2 x pairs,) and, not as tensors,
            ``global_batch_size`` (pairs of the whole batch on all ranks) and ``dp_size``.
        dp_group: Ranks with other pairs. Unused.

    Returns:
        The micro-batch's share of the mean loss over the whole batch (times ``dp_size``, since FSDP averages the ranks'
        gradients), and the numbers of its pairs.
    """
    scores = last_values(model_output["values"])
    chosen, rejected = scores[0::2], scores[1::2]
    margin = data["margin"][0::2].to(scores) if options.margin else 0.0
    loss = -F.logsigmoid(chosen - rejected - margin) + options.center_coef * (chosen + rejected) ** 2
    tokens = data["input_ids"].offsets().diff()
    records = ScoreRecords(
        data["pair"][0::2].tolist(),
        loss.tolist(),
        chosen.tolist(),
        rejected.tolist(),
        tokens[0::2].tolist(),
        tokens[1::2].tolist(),
    )
    return loss.sum() / data["global_batch_size"] * data["dp_size"], asdict(records)


def quality(records: ScoreRecords) -> dict[str, float]:
    """How far the scores can be trusted, on pairs that were not trained on.

    ``calibration/error`` is the expected calibration error: sigmoid(|s_w - s_l|) is how sure the model is, and in each
    of ``BINS`` bins its mean is compared with the share that is right (Guo et al., arXiv 1706.04599).
    ``length/correlation`` is that of the scores' difference with the difference in tokens (0: length does not matter);
    ``length/accuracy_longer`` and ``_shorter`` are the shares that are right where the chosen answer is the longer or
    the shorter one, where there are such pairs.
    """
    chosen, rejected = (torch.tensor(side, dtype=torch.float64) for side in _scores(records))
    difference, right = chosen - rejected, _won(chosen - rejected)
    longer = torch.tensor(records.chosen_tokens) - torch.tensor(records.rejected_tokens)
    found = {"calibration/error": _calibration_error(difference.abs().sigmoid(), right)}
    for name, of in (("longer", longer > 0), ("shorter", longer < 0)):
        if of.any():
            found[f"length/accuracy_{name}"] = right[of].mean().item()
    both = torch.stack((difference, longer.double()))
    if len(right) > 1 and (both.std(dim=1) > 0).all():
        found["length/correlation"] = torch.corrcoef(both)[0, 1].item()
    return found


def _scores(records: ScoreRecords) -> tuple[list[float], list[float]]:
    return records.chosen_reward, records.rejected_reward


def _won(difference: torch.Tensor) -> torch.Tensor:
    return (difference > 0).double() + 0.5 * (difference == 0).double()


def _calibration_error(sure: torch.Tensor, right: torch.Tensor) -> float:
    bins = ((sure - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    gaps = [(sure[bins == one] - right[bins == one]).sum().abs() for one in range(BINS)]
    return (sum(gaps) / len(sure)).item()
