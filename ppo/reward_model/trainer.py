"""Reward model training on verl's engine: verl's value model on pairs of conversations, scored at their last token.

The value model that verl gives PPO's critic has one number for each token; a sequence classifier is the same network
read at the last token. So the checkpoint is written as a classifier, which vLLM, SGLang and transformers serve.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from common.data.conversation import SIDES, RenderError, Side, as_messages
from common.verl_ext import private
from dpo.dataset import PreferenceDataset
from dpo.pairs import gather_records, reward_means
from dpo.trainer import DPOTrainer
from ppo.reward_model.scores import ScoreOptions, ScoreRecords, quality, score_loss

LOADED, SERVED = "ForTokenClassification", "ForSequenceClassification"


class ConversationPairs(PreferenceDataset):
    """Pairs of whole conversations, as a reward model reads them: with what the template writes behind the answer.

    A prompt above ``max_prompt_length`` loses its beginning. Pairs with an answer above ``max_response_length`` are
    left out: a score is read at the end, and theirs would be that of half an answer. ``margins`` holds the rows'
    margins, of the shape (pairs,), 0 where a row has none.

    Raises:
        ValueError: If a row cannot be read, or no pair is left.
    """

    def _read(self, rows: Iterator[dict[str, Any]], where: str) -> None:
        margins, left_out = [], {"equal answers": 0, "answers above the limit": 0}
        for number, row in enumerate(rows, 1):
            pair = tuple(self.whole(row, name, number) for name in SIDES)
            if None in pair or pair[0] == pair[1]:
                left_out["answers above the limit" if None in pair else "equal answers"] += 1
                continue
            self.pairs.append(pair)
            self.rows.append(row)
            margins.append(float(row.get("margin") or 0.0))
        words = ", ".join(f"{count} with {why}" for why, count in left_out.items())
        if not self.pairs:
            raise ValueError(f"{where}: no pair to learn from; left out: {words}")
        self.margins = torch.tensor(margins, dtype=torch.float64)
        print(f"preference pairs: {len(self.pairs)}; left out: {words}; sequences that lost a beginning: {self.cut}")

    def whole(self, row: dict[str, Any], name: str, number: int) -> Side | None:
        """The conversation with one answer of a row; None when the answer is too long."""
        prompt = [{**message, "weight": 0} for message in as_messages(row["prompt"], "user")]
        try:
            rendered = self.renderer.render([*prompt, *as_messages(row[name], "assistant")], row.get("tools"))
            ids, mask = rendered.tokens(self.tokenizer)
        except RenderError as error:
            raise ValueError(f"row {number}: {error}") from error
        if 1 not in mask:
            raise ValueError(f"row {number}: {name}: the chat template leaves nothing of it to score")
        answer, end = mask.index(1), len(mask) - mask[::-1].index(1)
        if end - answer > self.response_limit:
            return None
        start = max(0, answer - self.prompt_limit, len(ids) - self.prompt_limit - self.response_limit)
        self.cut += start > 0
        return Side(ids[start:], mask[start:])


class RewardModelTrainer(DPOTrainer):
    """Trains a reward model.

    Args:
        config: The composed ``ppo/reward_model/config.yaml``.
    """

    model_type = "value_model"
    records = ScoreRecords

    def __init__(self, config: Any):
        private.check("ppo/reward_model/trainer.py")
        super().__init__(config)

    def _read_algorithm(self, algorithm: dict[str, Any]) -> None:
        self.options, self.reference_mode = ScoreOptions(**algorithm), "none"

    def _dataset(self, files: Any) -> ConversationPairs:
        return ConversationPairs(files, self.model_config.tokenizer, self.config.data)

    def _loss(self) -> Any:
        return partial(score_loss, self.options)

    def _build_engine(self) -> None:
        super()._build_engine()
        # A reward model has its head without a bias, which no pair can teach; and the head begins alike on each start.
        build, seed = self.engine._build_module, self.config.trainer.seed
        pad = self.model_config.tokenizer.pad_token_id

        def classifier() -> torch.nn.Module:
            torch.manual_seed(seed)
            return as_classifier(build(), pad)

        self.engine._build_module = classifier

    def _with_margin(self, data: dict[str, Any], dataset: ConversationPairs) -> Any:
        batch = self._batch(data)
        batch["margin"] = dataset.margins[batch["pair"].cpu()]
        return batch

    def _prepared(self, data: dict[str, Any]) -> tuple[Any, dict[str, float]]:
        return self._with_margin(data, self.train_dataset), {}

    def _means(self, metrics: dict[str, Any]) -> dict[str, float]:
        return reward_means(gather_records(metrics, ScoreRecords))

    def _val_batch(self, data: dict[str, Any]) -> Any:
        return self._with_margin(data, self.val_dataset)

    def _val_means(self, records: ScoreRecords) -> dict[str, float]:
        return {**reward_means(records), **quality(records)}


def as_classifier(module: torch.nn.Module, pad_token_id: int | None) -> torch.nn.Module:
    """A value model whose weights and config are those of a sequence classifier with one score.

    Args:
        module: As verl loads it, with the head ``score``.
        pad_token_id: Of the tokenizer; a classifier looks for it to find the last token.

    Raises:
        ValueError: If the family's value model has another head than its classifier.
    """
    name = type(module).__name__
    if not isinstance(getattr(module, "score", None), torch.nn.Linear) or not name.endswith(LOADED):
        raise ValueError(f"MODEL_PATH: a {name} has no head `score`, so it cannot be written as a reward model")
    if module.score.bias is not None:
        module.score.bias = None
    module.config.architectures = [name.removesuffix(LOADED) + SERVED]
    module.config.num_labels = 1
    if module.config.pad_token_id is None:
        module.config.pad_token_id = pad_token_id
    if not hasattr(module, "prepare_inputs_for_generation"):  # PEFT's wrapper of any model asks for it (verl's LoRA)
        module.prepare_inputs_for_generation = None
    return module
