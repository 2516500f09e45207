"""The two sides of ``dpo_against_trl.py``: one job in the kit's trainer, or in TRL's, in a separate process.

python benchmarks/dpo_sides.py kit|trl JOB        # JOB: JSON; prints a line "RESULT {...}"
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SMOOTHING, NLL, GAMMA = 0.1, 0.5, 0.5
GOOD, BAD, CENTER = 1.2, 0.8, 0.01
# What is compared: what the kit gets under algorithm, and TRL's trainer with its settings.
LOSSES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "sigmoid": ({}, "dpo", {"loss_type": "sigmoid"}),
    "normalised": ({"loss_type": "sigmoid", "length_normalize": True}, "dpo", {"loss_type": "sigmoid_norm"}),
    # The mean over the tokens of one answer; TRL's own batches would weigh long answers more.
    "rpo": (
        {"loss_type": "sigmoid", "nll_coef": NLL},
        "dpo",
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, NLL]},
    ),
    "hinge": ({}, "dpo", {"loss_type": "hinge"}),
    "ipo": ({}, "dpo", {"loss_type": "ipo"}),
    "robust": ({"label_smoothing": SMOOTHING}, "dpo", {"loss_type": "robust", "label_smoothing": SMOOTHING}),
    "sppo": ({}, "dpo", {"loss_type": "sppo_hard"}),
    "exo_pair": ({"label_smoothing": SMOOTHING}, "dpo", {"loss_type": "exo_pair", "label_smoothing": SMOOTHING}),
    **{name: ({}, "dpo", {"loss_type": name}) for name in ("nca_pair", "bco_pair", "apo_zero", "apo_down", "discopop")},
    "alphapo": (
        {"simpo_gamma": GAMMA},
        "cpo",
        {"loss_type": "alphapo", "alpha": 0.25, "simpo_gamma": GAMMA},
    ),
    "simpo": ({"simpo_gamma": GAMMA}, "cpo", {"loss_type": "simpo", "simpo_gamma": GAMMA, "cpo_alpha": 0.0}),
    "orpo": ({}, "orpo", {}),
    # Answers of the pairs one by one; each with a batch of its own before the first step.
    "kto": (
        {"desirable_weight": GOOD, "undesirable_weight": BAD},
        "kto",
        {"loss_type": "kto", "desirable_weight": GOOD, "undesirable_weight": BAD},
    ),
    # Scores of a reward model, with the same head at the start.
    "reward": ({"center_coef": CENTER}, "reward", {"center_rewards_coefficient": CENTER}),
    "apo_zero_unpaired": ({}, "kto", {"loss_type": "apo_zero_unpaired"}),
}
RATE, BETA = 1e-5, 0.1
# verl's AdamW: weight decay 0.01, betas (0.9, 0.999), clip at 1
WEIGHT_DECAY, CLIP = 0.01, 1.0


def kit_config(job: dict[str, Any]) -> Any:
    """The kit's config for a job."""
    from hydra import compose, initialize_config_dir

    settings = {
        "data.train_files": [job["pairs"]],
        "data.val_files": "null" if job["speed"] else [job["pairs"]],
        "data.max_prompt_length": job["longest"],
        "data.max_response_length": job["longest"],
        "data.train_batch_size": job["batch"],
        "data.max_token_len_per_gpu": 2 * job["longest"],
        "model.path": job["model"],
        "model.use_remove_padding": "true",
        "+model.override_config.attn_implementation": "sdpa_varlen",
        "algorithm.loss_type": job["loss"],
        "algorithm.beta": BETA,
        "algorithm.reference": "precompute",
        "algorithm.reference_path": str(Path(job["model"]).with_name("reference")),
        **{f"algorithm.{name}": value for name, value in LOSSES[job["loss"]][0].items()},
        "optim.lr": RATE,
        "optim.lr_scheduler_type": "constant",
        "optim.weight_decay": WEIGHT_DECAY,
        "optim.clip_grad": CLIP,
        "trainer.total_training_steps": job["steps"],
        "trainer.total_epochs": 2,
        "trainer.save_freq": -1,
        "trainer.test_freq": -1,
        "trainer.resume_mode": "disable",
    }
    folder = "dpo"
    if LOSSES[job["loss"]][1] == "reward":
        folder = "ppo/reward_model"
        kept = ("algorithm.center_coef", "data.", "model.", "+model.", "optim.", "trainer.")
        settings = {key: value for key, value in settings.items() if key.startswith(kept)}
        settings["model.path"] = str(Path(job["model"]).with_name("scorer"))
    with initialize_config_dir(config_dir=str(ROOT / folder), version_base=None):
        return compose("config", ["+hardware=cpu", *(f"{key}={value}" for key, value in settings.items())])


def margin_of(index: int) -> float:
    """What the scores of a pair must differ by, on both sides."""
    return 0.1 * (index % 5)


def kit_side(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the kit's trainer in this process."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29517")
    os.environ.update(RUN_DIR=job["folder"], ALGORITHM="dpo")
    sys.path.insert(0, str(ROOT))
    import torch
    from verl.utils import tensordict_utils as tu
    from verl.utils.distributed import initialize_global_process_group

    from dpo import kto
    from dpo.dataset import PairCollator
    from dpo.pairs import gather_records
    from dpo.trainer import DPOTrainer
    from ppo.reward_model.scores import ScoreRecords
    from ppo.reward_model.trainer import RewardModelTrainer

    config = kit_config(job)
    scores = LOSSES[job["loss"]][1] == "reward"
    single = LOSSES[job["loss"]][1] == "kto"
    if single:  # TRL turns the answers within each batch, the kit within the data set
        kto.partners = lambda prompts: [
            i - 1 if i % job["batch"] else i + job["batch"] - 1 for i in range(len(prompts))
        ]
    initialize_global_process_group()
    found: dict[str, Any] = {"losses": [], "pairs": []}

    class InOrder(RewardModelTrainer if scores else kto.KTOTrainer if single else DPOTrainer):
        """Takes the pairs in the file's order, keeps what is logged, and neither validates nor saves while timed."""

        def _build_dataloader(self) -> None:
            super()._build_dataloader()
            self.train_sampler.shuffle = False
            if job["speed"]:
                self.val_dataloader = None

        def _build_ckpt_handler(self) -> None:
            super()._build_ckpt_handler()
            self.ckpt_handler.save_checkpoint = lambda **_: None

        def _validate(self, step: int) -> dict[str, float]:
            if step == 0 and scores:
                for data in self.val_dataloader:
                    output = self.training_client.infer_batch(self._with_margin(data, self.val_dataset))
                    records = gather_records(tu.get(output, "metrics"), ScoreRecords)
                    values = records.pair, records.pair_loss, records.chosen_reward, records.rejected_reward
                    found["pairs"] += zip(*values, strict=True)
            elif step == 0 and single:
                for index in range(len(self.val_dataset)):
                    batch = self._with_reference(self._batch(PairCollator()([self.val_dataset[index]])), "val")
                    answers = self._answers(batch, "val", self._distance([batch]))
                    output = tu.get(self.training_client.infer_batch(answers), "metrics")
                    records = gather_records(output, kto.AnswerRecords)
                    found["pairs"] += [(index, *records.answer_loss, *records.reward, 0.0)]
            elif step == 0:
                for data in self.val_dataloader:
                    batch = self._with_reference(self._batch(data), "val")
                    records = gather_records(tu.get(self.training_client.infer_batch(batch), "metrics"))
                    values = records.pair, records.pair_loss, records.chosen_reward, records.rejected_reward
                    values += records.chosen_logp, records.rejected_logp
                    values += records.chosen_tokens, records.rejected_tokens
                    found["pairs"] += zip(*values, strict=True)
            return {}

        def _tracking(self) -> Any:
            return self

        def log(self, data: dict[str, float], step: int) -> None:
            found["losses"] += [data["train/loss"]] if "train/loss" in data else []

    started, cpu = time.perf_counter(), sum(os.times()[:2])
    trainer = InOrder(config)
    if scores:
        for dataset in (trainer.train_dataset, trainer.val_dataset):
            dataset.margins = torch.tensor([margin_of(index) for index in range(len(dataset))])
    found["setup"] = time.perf_counter() - started
    started = time.perf_counter()
    trainer.fit()
    found["seconds"] = time.perf_counter() - started
    found["cpu"] = sum(os.times()[:2]) - cpu
    found["pairs"] = [list(values) for _, *values in sorted(found["pairs"])]
    return found


def trl_trainer(kind: str) -> tuple[Any, Any]:
    """TRL's trainer and config class: ``dpo``, ``cpo`` (SimPO is there) or ``orpo``; pairs in the file's order."""
    import torch
    from torch.utils.data import SequentialSampler

    if kind == "dpo":
        from trl import DPOConfig as Config
        from trl import DPOTrainer as Trainer
    elif kind == "cpo":
        from trl.experimental.cpo import CPOConfig as Config
        from trl.experimental.cpo import CPOTrainer as Trainer
    elif kind == "reward":
        from trl import RewardConfig as Config
        from trl import RewardTrainer as Trainer
    elif kind == "kto":
        from trl import KTOConfig as Config
        from trl import KTOTrainer as Trainer
    else:
        from trl.experimental.orpo import ORPOConfig as Config
        from trl.experimental.orpo import ORPOTrainer as Trainer

    class InOrder(Trainer):
        """As it is, but for the order."""

        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    class AnswersOnly(InOrder):
        """ORPO as in its paper: the likelihood of the answer. TRL's takes the prompt's tokens into that term too."""

        def concatenated_forward(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
            chosen, *others, _ = super().concatenated_forward(*args, **kwargs)
            return chosen, *others, -chosen.mean()

    return AnswersOnly if kind == "orpo" else InOrder, Config


def trl_settings(job: dict[str, Any], kind: str) -> dict[str, Any]:
    """What TRL's config gets for a job."""
    settings = {
        "output_dir": job["folder"],
        **({} if kind == "reward" else {"beta": BETA}),
        "per_device_train_batch_size": job["batch"],
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": WEIGHT_DECAY,
        "max_grad_norm": CLIP,
        "max_steps": job["steps"],
        "max_length": None if kind in ("dpo", "kto", "reward") else 2 * job["longest"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    if kind == "kto":
        settings["train_sampling_strategy"] = "sequential"
    return {**settings, **({"precompute_ref_log_probs": job["speed"] and job["keep"]} if kind == "dpo" else {})}


def trl_first_losses(trainer: Any, kind: str) -> list[list[float]]:
    """Loss, chosen and rejected reward of each pair before training."""
    import torch

    trainer.model.eval()
    found = []
    for row in trainer.train_dataset:
        inputs = trainer._prepare_inputs(trainer.data_collator([row]))
        with torch.no_grad():
            if kind == "reward":
                loss, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
                rewards = outputs.logits.squeeze(-1).tolist()
            elif kind == "kto":
                loss = trainer.compute_loss(trainer.model, inputs)
                kept = next(group for group in trainer._metrics.values() if "kl" in group)
                name = "chosen" if row["label"] else "rejected"
                rewards = kept[f"rewards/{name}"][-1], 0.0
            elif kind == "dpo":
                loss = trainer.compute_loss(trainer.model, inputs)
                kept = next(group for group in trainer._metrics.values() if "rewards/chosen" in group)
                rewards = kept["rewards/chosen"][-1], kept["rewards/rejected"][-1]
            else:
                loss, metrics = trainer.get_batch_loss_metrics(trainer.model, inputs, "train")
                rewards = float(metrics["rewards/chosen"]), float(metrics["rewards/rejected"])
        found.append([loss.item(), *rewards])
    if kind in ("dpo", "kto", "reward"):
        for group in trainer._metrics.values():
            group.clear()
    trainer.model.train()
    return found


def one_by_one(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The two answers of a pair, in the kit's order."""
    sides = ("chosen", "rejected")
    return [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"} for side in sides]


def trl_side(job: dict[str, Any]) -> dict[str, Any]:
    """Runs TRL's trainer in this process (with its separate environment)."""
    import torch
    from datasets import Dataset, load_dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    _, kind, options = LOSSES[job["loss"]]
    make, config = trl_trainer(kind)
    loader = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    names = ("scorer", "scorer") if kind == "reward" else ("model", "reference")
    model, reference = (
        loader.from_pretrained(Path(job["model"]).with_name(name), dtype=torch.float32) for name in names
    )
    rows = load_dataset("json", data_files=str(Path(job["pairs"]).with_suffix(".jsonl")), split="train")
    if kind == "reward":
        rows = rows.add_column("margin", [margin_of(index) for index in range(len(rows))])
    if kind == "kto":
        rows = Dataset.from_list([answer for row in rows for answer in one_by_one(row)])
    started, cpu = time.perf_counter(), sum(os.times()[:2])
    if "loss_weights" in options:
        options = {**options, "per_device_train_batch_size": 1, "gradient_accumulation_steps": job["batch"]}
    trainer = make(
        model=model,
        args=config(**{**trl_settings(job, kind), **options}),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        **({"ref_model": reference} if kind in ("dpo", "kto") else {}),
    )
    found: dict[str, Any] = {"setup": time.perf_counter() - started}
    found["pairs"] = [] if job["speed"] else trl_first_losses(trainer, kind)
    started = time.perf_counter()
    trainer.train()
    found["seconds"] = time.perf_counter() - started
    found["cpu"] = sum(os.times()[:2]) - cpu
    found["losses"] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return found


if __name__ == "__main__":
    print("\nRESULT " + json.dumps({"kit": kit_side, "trl": trl_side}[sys.argv[1]](json.loads(sys.argv[2]))))
