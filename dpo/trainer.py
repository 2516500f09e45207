"""Preference optimisation on verl's engine: verl's SFT trainer with pairs, a reference and another loss.

What is verl's: the model engine (FSDP2, LoRA, offloading), micro-batches that keep pairs together, optimiser and
schedule, checkpoints and resume, loggers, the launch under torchrun.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from tensordict.tensorclass import NonTensorData
from torch.utils.data import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from tqdm import tqdm
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.tracking import Tracking
from verl.workers.engine_workers import TrainingWorker, TrainingWorkerConfig

from common.preference_losses import WITHOUT_REFERENCE
from common.verl_ext import private
from dpo.dataset import PairCollator, PreferenceDataset
from dpo.losses import LossOptions
from dpo.pairs import SEQUENCES, PairRecords, distinct, gather_records, means, pair_loss
from dpo.reference import MODES, ReferenceTable, infer_logps
from dpo.table import write_margins


class DPOTrainer(SFTTrainer):
    """Trains on preference pairs.

    Args:
        config: The composed ``dpo/config.yaml``.
    """

    model_type = "language_model"
    group = SEQUENCES  # sequences that must be in one micro-batch
    records: type = PairRecords  # what the loss function gives for each pair

    def __init__(self, config: Any):
        private.check("dpo/trainer.py")
        super().__init__(config)

    def _build_config(self) -> None:
        super()._build_config()
        algorithm = OmegaConf.to_container(self.config.algorithm, resolve=True)
        self._read_algorithm(algorithm)
        if self.engine_config.ulysses_sequence_parallel_size > 1:
            raise ValueError("engine.ulysses_sequence_parallel_size: must be 1, a pair is not split over ranks")
        self.run_dir = Path(self.config.trainer.default_local_dir).parent

    def _read_algorithm(self, algorithm: dict[str, Any]) -> None:
        """The loss and its reference."""
        self.reference_mode = algorithm["reference"]
        self.reference_path = algorithm["reference_path"] or self.config.model.path
        self.options = self._loss_options(algorithm)
        if self.reference_mode not in MODES:
            raise ValueError(f"algorithm.reference={self.reference_mode}: must be one of {', '.join(MODES)}")
        if self.options.loss_type in WITHOUT_REFERENCE:
            self.reference_mode = "none"

    def _loss_options(self, algorithm: dict[str, Any]) -> Any:
        """What the loss needs, from the config's ``algorithm``."""
        return LossOptions(**{name: algorithm[name] for name in LossOptions.__dataclass_fields__})

    # ---- parts that verl's trainer builds ----------------------------------------------------------------------

    def _build_dataset(self) -> None:
        data = self.config.data
        self.train_dataset = self._dataset(data.train_files)
        self.val_dataset = self._dataset(data.val_files) if data.val_files else None

    def _dataset(self, files: Any) -> PreferenceDataset:
        return PreferenceDataset(files, self.model_config.tokenizer, self.config.data)

    def _build_engine(self) -> None:
        self.training_client = self._worker(self.model_config, self.engine_config, self.optimizer_config)
        self.training_client.set_loss_fn(self._loss())
        self.engine = self.training_client.engine

    def _loss(self) -> Callable[..., Any]:
        """The loss function of the engine."""
        return partial(pair_loss, self.options)

    def _worker(self, model_config: Any, engine_config: Any, optimizer_config: Any) -> TrainingWorker:
        return TrainingWorker(
            TrainingWorkerConfig(
                model_type=self.model_type,
                model_config=model_config,
                engine_config=engine_config,
                optimizer_config=optimizer_config,
                checkpoint_config=self.checkpoint_config,
                profiler_config=self.profiler_config,
            )
        )

    def _build_dataloader(self) -> None:
        """A loader of pairs; validation takes every pair, also those of a last, smaller batch."""
        rank, size = self.engine.get_data_parallel_rank(), self.engine.get_data_parallel_size()
        self.global_batch_size = self.config.data.train_batch_size
        if self.global_batch_size % size:
            raise ValueError(f"data.train_batch_size={self.global_batch_size}: not divisible by {size} ranks")
        seed = self.config.trainer.seed
        self.train_sampler = DistributedSampler(
            self.train_dataset, shuffle=True, num_replicas=size, rank=rank, drop_last=True, seed=seed
        )
        self.train_dataloader = self._loader(self.train_dataset, self.train_sampler, drop_last=True)
        self.val_dataloader = self._every_pair(self.val_dataset) if self.val_dataset else None

    def _loader(self, dataset: PreferenceDataset, sampler: Any, drop_last: bool) -> StatefulDataLoader:
        return StatefulDataLoader(
            dataset=dataset,
            batch_size=self.global_batch_size // self.engine.get_data_parallel_size(),
            sampler=sampler,
            collate_fn=PairCollator(),
            num_workers=self.config.data.num_workers,
            drop_last=drop_last,
        )

    def _every_pair(self, dataset: PreferenceDataset) -> StatefulDataLoader:
        """A loader of all pairs in order; the last rank's share is filled up with pairs that were there."""
        rank, size = self.engine.get_data_parallel_rank(), self.engine.get_data_parallel_size()
        sampler = DistributedSampler(dataset, shuffle=False, num_replicas=size, rank=rank, drop_last=False)
        return self._loader(dataset, sampler, drop_last=False)

    def _init_engine(self) -> None:
        super()._init_engine()
        self.tables: dict[str, ReferenceTable] = {}
        self.reference: TrainingWorker | None = None
        if self.reference_mode == "precompute":
            self._fill_tables()
        elif self.reference_mode == "model":
            self.reference = self._frozen_reference()

    # ---- the reference -----------------------------------------------------------------------------------------

    def _frozen_reference(self) -> TrainingWorker:
        model = OmegaConf.merge(self.config.model, {"path": self.reference_path, "lora_rank": 0})
        from verl.utils.config import omega_conf_to_dataclass

        engine = replace(self.engine_config, forward_only=True)
        worker = self._worker(omega_conf_to_dataclass(model), engine, self.optimizer_config)
        worker.reset()
        return worker

    def _fill_tables(self) -> None:
        """Read or make the reference's log-probabilities of all pairs."""
        datasets = {"train": self.train_dataset, "val": self.val_dataset}
        self.tables = {
            split: ReferenceTable(dataset, self.run_dir / f"reference_{split}.pt", str(self.reference_path))
            for split, dataset in datasets.items()
            if dataset
        }
        missing = [split for split, table in self.tables.items() if not table.load()]
        if not missing:
            return
        # Nothing has been trained yet, so the model itself is its reference, unless another one is named.
        own = self.reference_path == self.config.model.path
        worker = self.training_client if own else self._frozen_reference()
        for split in missing:
            dataset = datasets[split]
            print(f"Reference log-probabilities of {len(dataset)} {split} pairs")
            batches = (self._batch(data) for data in self._every_pair(dataset))
            self.tables[split].fill(worker, batches, self.engine.get_data_parallel_group())

    def _with_reference(self, batch: Any, split: str) -> Any:
        batch["ref_logps"] = self._reference_logps(batch, split)
        return batch

    def _reference_logps(self, batch: Any, split: str) -> torch.Tensor:
        if self.reference_mode == "none":
            return torch.zeros(batch.batch_size[0], dtype=torch.float64)
        if self.reference_mode == "precompute":
            return self.tables[split].lookup(batch)
        if self.reference_mode == "adapter":
            return infer_logps(self.training_client, batch, adapter=False)
        return infer_logps(self.reference, batch)

    # ---- training ----------------------------------------------------------------------------------------------

    def _batch(self, data: dict[str, Any]) -> Any:
        """A batch with what verl's engine wants to know beside the tensors."""
        settings = self.config.data
        facts = {
            "use_remove_padding": self.config.model.use_remove_padding,
            "use_dynamic_bsz": settings.use_dynamic_bsz,
            "max_token_len_per_gpu": settings.max_token_len_per_gpu,
            "micro_batch_size_per_gpu": settings.micro_batch_size_per_gpu,
            "force_group_size": self.group,
            "temperature": 1.0,
            "global_batch_size": self.global_batch_size,
            "pad_mode": settings.pad_mode,
            "pad_token_id": self.model_config.tokenizer.pad_token_id,
        }
        return tu.get_tensordict(tensor_dict=data, non_tensor_dict=facts)

    def fit(self) -> None:
        """Train from where the checkpoint ends to the last step."""
        step = self.resume_global_step
        tracking = self._tracking()
        if step == 0 and self.val_dataloader:
            self._log(tracking, self._validate(step), step)
        while step < self.total_training_steps:
            before, epoch = step, step // self.steps_per_epoch
            self.train_sampler.set_epoch(epoch)
            for data in tqdm(self.train_dataloader, desc=f"Epoch {epoch + 1}", disable=tracking is None):
                step += 1
                self._log(tracking, self._train_step(data), step)
                self._after_step(tracking, step)
                if step >= self.total_training_steps:
                    return
            if step == before:
                raise RuntimeError(f"epoch {epoch + 1} has no batch after step {step}")

    def _after_step(self, tracking: Tracking | None, step: int) -> None:
        """Validate and save where it is time to."""
        last = step >= self.total_training_steps
        if self.val_dataloader and (last or (self.test_freq > 0 and step % self.test_freq == 0)):
            self._log(tracking, self._validate(step), step)
        if last or (self.save_freq > 0 and step % self.save_freq == 0):
            self.ckpt_handler.save_checkpoint(step=step)

    def _log(self, tracking: Tracking | None, metrics: dict[str, float], step: int) -> None:
        if tracking:
            tracking.log(data=metrics, step=step)

    def _tracking(self) -> Tracking | None:
        if self.engine.get_data_parallel_rank() or not self.engine.is_mp_src_rank_with_outputs():
            return None
        return Tracking(
            project_name=self.config.trainer.project_name,
            experiment_name=self.config.trainer.experiment_name,
            default_backend=self.config.trainer.logger,
            config=OmegaConf.to_container(self.config, resolve=True),
        )

    def _train_step(self, data: dict[str, Any]) -> dict[str, float]:
        started = time.perf_counter()
        batch, more = self._prepared(data)
        lengths = self._get_batch_seqlens(batch)
        tu.assign_non_tensor(batch, update_lr_scheduler=True, global_token_num=NonTensorData(lengths))
        metrics = tu.get(self.training_client.train_batch(data=batch), "metrics")
        named = self._means(metrics) | more
        metrics |= {f"train/{name}": metrics.pop(name) for name in ("grad_norm", "lr", "mfu") if name in metrics}
        metrics["train/loss"] = named.pop("loss")
        metrics.pop("loss", None)
        seconds = time.perf_counter() - started
        tokens = sum(lengths)
        speed = {
            "train/global_tokens": tokens,
            "timing_s/step": seconds,
            "perf/throughput": tokens / seconds / self.engine.get_data_parallel_size(),
            "perf/pairs_per_second": self.global_batch_size / seconds,
        }
        return {**metrics, **named, **speed}

    def _prepared(self, data: dict[str, Any]) -> tuple[Any, dict[str, float]]:
        """A batch to train on, and metrics that are known before it is."""
        return self._with_reference(self._batch(data), "train"), {}

    def _means(self, metrics: dict[str, Any]) -> dict[str, float]:
        """Metrics of a batch, from what the loss function gave for each pair."""
        return means(gather_records(metrics))

    def _validate(self, step: int) -> dict[str, float]:
        """Metrics over all validation pairs; also writes the table of the clearest and the worst ones."""
        outputs = []
        for data in self.val_dataloader:
            output = self.training_client.infer_batch(self._val_batch(data))
            outputs.append(gather_records(tu.get(output, "metrics"), self.records))
        records = distinct(outputs)
        if torch.distributed.get_rank() == 0:
            write_margins(self.run_dir / "validation", step, records, self.val_dataset)
        return {f"val/{name}": value for name, value in self._val_means(records).items()}

    def _val_batch(self, data: dict[str, Any]) -> Any:
        return self._with_reference(self._batch(data), "val")

    def _val_means(self, records: Any) -> dict[str, float]:
        return means(records)
