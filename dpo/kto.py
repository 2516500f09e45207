r"""KTO: answers that are each marked as good or bad, without a pair.

Notation as in ``losses.py``; z is the distance to the reference: the mean of r(y'|x) over the batch, not below 0, with
y' an answer to another prompt. Source: Ethayarajh et al., arXiv 2402.01306, equations 7 and 8:

    good answers: w_D (1 - s(beta (r(y) - z)))        bad answers: w_U (1 - s(beta (z - r(y))))

``apo_zero_unpaired`` is the same without z (D'Oosterlinck et al., arXiv 2408.06266).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from common.data.conversation import answers_of
from common.data.keys import prompt_key
from dpo.dataset import PreferenceDataset
from dpo.pairs import answer_logps, distinct, gather_records
from dpo.reference import infer_logps
from dpo.table import write_answers
from dpo.trainer import DPOTrainer

OTHER = "_other"  # of a row: the answer to another prompt


@dataclass(frozen=True)
class AnswerOptions:
    """What the loss needs in addition to the log-probabilities.

    Args:
        loss_type: ``kto`` or ``apo_zero_unpaired``.
        beta: Pull towards the reference, above 0.
        desirable_weight: Weight of good answers.
        undesirable_weight: Weight of bad ones.
    """

    loss_type: str
    beta: float
    desirable_weight: float
    undesirable_weight: float


@dataclass
class AnswerRecords:
    """Numbers of answers, one list entry each, in the same order.

    Args:
        pair: Number of the answer in its dataset.
        answer_loss: Its loss.
        reward: beta r(y).
        logp: Its summed log-probability.
        wanted: 1.0 for a good answer, 0.0 for a bad one.
    """

    pair: list[int]
    answer_loss: list[float]
    reward: list[float]
    logp: list[float]
    wanted: list[float]


class AnswerDataset(PreferenceDataset):
    """Answers with the one to another prompt that belongs to each; a row with a pair is one good and one bad answer.

    Rows are as ``common.data`` makes them for ``kto``. ``pairs`` holds of each answer its sequence and the prompt with
    the other answer; ``wanted`` whether it is good, of the shape (answers,).

    Args:
        files: As for ``PreferenceDataset``, as the next two.
        tokenizer: Of the model.
        config: Length limits.
        mismatched: Whether there are other answers; without them an answer is its own.

    Raises:
        ValueError: If a row cannot be read, or more than half of the answers are to one prompt.
    """

    def __init__(self, files: Sequence[str], tokenizer: Any, config: Any, mismatched: bool = True):
        self.mismatched = mismatched
        super().__init__(files, tokenizer, config)

    def _read(self, rows: Iterator[dict[str, Any]], where: str) -> None:
        marked = [answer for row in rows for answer in answers_in(row)]
        if not marked:
            raise ValueError(f"{where}: no answer to learn from")
        keys = [prompt_key(row["prompt"]) for row in marked]
        others = partners(keys) if self.mismatched else range(len(keys))
        for number, (row, other) in enumerate(zip(marked, others, strict=True), 1):
            mismatched = {**row, OTHER: marked[other]["completion"]}
            self.pairs.append((self.side(row, "completion", number), self.side(mismatched, OTHER, number)))
            self.rows.append(row)
        self.wanted = torch.tensor([bool(row["label"]) for row in marked])
        good = int(self.wanted.sum())
        print(f"answers: {good} good, {len(marked) - good} bad; sequences cut to the length limits: {self.cut}")


def answers_in(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of a row as separate rows: ``prompt``, ``completion``, ``label``, perhaps ``tools``.

    Equal answers of a pair say nothing, and there are none of them.
    """
    names = answers_of("kto", row)
    if names == ("completion",):
        return [row]
    if row["chosen"] == row["rejected"]:
        return []
    kept = {name: row[name] for name in ("prompt", "tools") if row.get(name) is not None}
    return [{**kept, "completion": row[name], "label": name == "chosen"} for name in names]


def partners(prompts: Sequence[Hashable]) -> list[int]:
    """For each answer another one, to another prompt; each answer is the partner of exactly one.

    Answers are put in the order in which their prompts first appear and turned by the size of the largest group, so
    that each falls into another group; where all prompts differ that is the answer before.

    Raises:
        ValueError: If more than half of the answers are to one prompt.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(index)
    order = [index for group in groups.values() for index in group]
    turn = max(len(group) for group in groups.values())
    if 2 * turn > len(order):
        raise ValueError(
            f"{turn} of {len(order)} answers are to one prompt, so KTO's distance, measured on those to other prompts, "
            "cannot be; add prompts, or set LOSS_TYPE=apo_zero_unpaired"
        )
    other = {index: order[place - turn] for place, index in enumerate(order)}
    return [other[index] for index in range(len(order))]


def answer_loss(
    options: AnswerOptions, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, list[float]]]:
    """The loss function that verl's engine calls for every micro-batch.

    Args:
        options: The loss.
        model_output: ``log_probs``, nested, of the shape (answers, tokens).
        data: Micro-batch with ``loss_mask``, ``pair``, ``wanted``, ``ref_logps``, each (answers,), and, not as tensors,
            ``distance`` (z), ``global_batch_size`` (answers of the whole batch on all ranks) and ``dp_size``.
        dp_group: Ranks with other answers. Unused.

    Returns:
        The micro-batch's share of the mean loss over the whole batch (times ``dp_size``, since FSDP averages the ranks'
        gradients), and the numbers of its answers.
    """
    logps = answer_logps(model_output["log_probs"], data["loss_mask"])
    ratio, wanted = logps - data["ref_logps"].to(logps.device), data["wanted"].to(logps.device)
    gain = torch.where(wanted, ratio - data["distance"], data["distance"] - ratio)
    weight = torch.where(wanted, options.desirable_weight, options.undesirable_weight)
    loss = weight * (-options.beta * gain).sigmoid()
    records = AnswerRecords(
        data["pair"].tolist(),
        loss.tolist(),
        (options.beta * ratio).tolist(),
        logps.tolist(),
        wanted.double().tolist(),
    )
    return loss.sum() / data["global_batch_size"] * data["dp_size"], asdict(records)


def means(records: AnswerRecords) -> dict[str, float]:
    """Metrics under the names that pairs have; what needs a kind of answers that is not there is left out.

    ``rewards/accuracies`` is the share of all good and bad answers, each with each, of which the good one has the
    higher reward (the area under the ROC curve); a tie is half a success.
    """
    sides = {
        name: [index for index, wanted in enumerate(records.wanted) if bool(wanted) == kind]
        for name, kind in (("chosen", True), ("rejected", False))
    }
    found = {"loss": sum(records.answer_loss) / len(records.pair)}
    for name, indices in sides.items():
        if indices:
            found[f"rewards/{name}"] = sum(records.reward[index] for index in indices) / len(indices)
            found[f"logps/{name}"] = sum(records.logp[index] for index in indices) / len(indices)
    if all(sides.values()):
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
        found["rewards/accuracies"] = _won(*([records.reward[index] for index in side] for side in sides.values()))
    return found


def _won(good: list[float], bad: list[float]) -> float:
    wins = torch.tensor(good)[:, None] - torch.tensor(bad)[None, :]
    return ((wins > 0).double().mean() + 0.5 * (wins == 0).double().mean()).item()


def every_other(batch: TensorDict, first: int) -> TensorDict:
    """Of a batch of answers and the others next to them, in turn, only the answers (0) or only the others (1)."""
    return tu.index_select_tensor_dict(batch, torch.arange(first, batch.batch_size[0], 2))


class KTOTrainer(DPOTrainer):
    """Trains on answers that are marked as good or bad."""

    group = 1

    def _loss_options(self, algorithm: dict[str, Any]) -> AnswerOptions:
        return AnswerOptions(**{name: algorithm[name] for name in AnswerOptions.__dataclass_fields__})

    def _dataset(self, files: Any) -> AnswerDataset:
        return AnswerDataset(files, self.model_config.tokenizer, self.config.data, self.options.loss_type == "kto")

    def _loss(self) -> Any:
        return partial(answer_loss, self.options)

    def _answers(self, batch: TensorDict, split: str, distance: float) -> TensorDict:
        """The answers of a batch, ready for the loss."""
        answers = every_other(batch, 0)
        dataset = self.train_dataset if split == "train" else self.val_dataset
        answers["wanted"] = dataset.wanted[answers["pair"].cpu()]
        tu.assign_non_tensor(answers, distance=distance)
        return answers

    def _distance(self, batches: list[TensorDict]) -> float:
        """KTO's z: the mean log-ratio of the answers to other prompts, of all ranks' batches, not below 0."""
        if self.options.loss_type != "kto":
            return 0.0
        mine: list[tuple[int, float]] = []
        for batch in batches:
            others = every_other(batch, 1)
            ratios = infer_logps(self.training_client, others) - others["ref_logps"].cpu()
            mine += zip(others["pair"].tolist(), ratios.tolist(), strict=True)
        everyone, group = [mine], self.engine.get_data_parallel_group()
        if group is not None and torch.distributed.get_world_size(group) > 1:
            everyone = [None] * torch.distributed.get_world_size(group)
            torch.distributed.all_gather_object(everyone, mine, group=group)
        ratios = dict(entry for share in everyone for entry in share)  # a rank may be filled up with others' answers
        return max(0.0, sum(ratios[pair] for pair in sorted(ratios)) / len(ratios))

    def _prepared(self, data: dict[str, Any]) -> tuple[TensorDict, dict[str, float]]:
        batch = self._with_reference(self._batch(data), "train")
        distance = self._distance([batch])
        return self._answers(batch, "train", distance), {"kto/distance": distance}

    def _means(self, metrics: dict[str, Any]) -> dict[str, float]:
        return means(gather_records(metrics, AnswerRecords))

    def _validate(self, step: int) -> dict[str, float]:
        """Metrics over all validation answers, with one distance; also writes the clearest and the worst ones."""
        batches = [self._with_reference(self._batch(data), "val") for data in self.val_dataloader]
        distance, outputs = self._distance(batches), []
        for batch in batches:
            output = self.training_client.infer_batch(self._answers(batch, "val", distance))
            outputs.append(gather_records(tu.get(output, "metrics"), AnswerRecords))
        records = distinct(outputs)
        if torch.distributed.get_rank() == 0:
            write_answers(self.run_dir / "validation", step, records, self.val_dataset)
        return {f"val/{name}": value for name, value in {**means(records), "kto/distance": distance}.items()}
