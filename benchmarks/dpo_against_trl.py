"""The DPO trainer against TRL's ``DPOTrainer``: losses, rewards and speed on the same model, pairs and optimiser.

    python -m venv /tmp/trl && /tmp/trl/bin/pip install trl torch==2.13.0     # TRL in an environment of its own
    .venv/bin/python benchmarks/dpo_against_trl.py --trl /tmp/trl/bin/python --pairs pairs.json

PAIRS is a file of any form that ``common.data_utils`` reads. It prints, for each loss that both have, the largest
difference of the per-pair losses and rewards before the first step, and of the losses of the first 10 optimiser steps;
with ``--speed`` the pairs a second over two epochs, in turn. CPU, float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# The kit's name -> TRL's, and the settings that both get.
LOSSES = {
    "sigmoid": ("sigmoid", {}),
    "hinge": ("hinge", {}),
    "ipo": ("ipo", {}),
    "robust": ("robust", {"label_smoothing": 0.1}),
    "sppo": ("sppo_hard", {}),
}
BATCH, STEPS, RATE, BETA = 8, 10, 1e-5, 0.1
LONGEST = 1500  # tokens of a pair's longer sequence, so that nothing is cut on either side
# verl's AdamW: weight decay 0.01, betas (0.9, 0.999), clip at 1
WEIGHT_DECAY, CLIP = 0.01, 1.0
TEMPLATE_END = "{{ '<|im_end|>\\n' }}"


def make_model(folder: Path, large: bool) -> None:
    """A copy of the demo model, or one of about 30M parameters with random weights, and beside it a reference.

    TRL learns the line break that the demo's template writes behind an answer, the kit does not; so it goes.
    """
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    demo = ROOT / "common" / "demo_model" / "model"
    tokenizer = AutoTokenizer.from_pretrained(demo)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        TEMPLATE_END, "{{ '<|im_end|>' }}{% if not loop.last or add_generation_prompt %}{{ '\\n' }}{% endif %}"
    )
    if large:
        torch.manual_seed(0)
        config = Qwen2Config.from_pretrained(demo)
        config.hidden_size, config.intermediate_size, config.num_hidden_layers = 512, 2048, 8
        config.num_attention_heads, config.num_key_value_heads, config.layer_types = 8, 4, None
        model = Qwen2ForCausalLM(config)
        print(f"{model.num_parameters():,} parameters")
    else:
        model = Qwen2ForCausalLM.from_pretrained(demo, dtype=torch.float32)
    model.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # A reference that differs: the model itself would give log 2 for every pair, whatever the code does.
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    model.save_pretrained(folder.with_name("reference"))
    tokenizer.save_pretrained(folder.with_name("reference"))


def make_pairs(source: Path, target: Path, model: Path, count: int) -> None:
    """The first pairs that fit, as the kit's parquet file and as JSONL for TRL."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    sys.path.insert(0, str(ROOT))
    from common.data_utils import json_to_parquet

    json_to_parquet(source, target, "dpo")
    tokenizer = AutoTokenizer.from_pretrained(model)
    kept = []
    for row in pq.read_table(target).to_pylist():
        texts = [
            tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False) for side in ("chosen", "rejected")
        ]
        if max(len(tokenizer(text)["input_ids"]) for text in texts) <= LONGEST and len(kept) < count:
            kept.append(row)
    pq.write_table(pa.Table.from_pylist(kept), target)
    target.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    print(f"{len(kept)} pairs")


def kit_config(job: dict[str, Any]) -> Any:
    """The kit's config for a job."""
    from hydra import compose, initialize_config_dir

    settings = {
        "data.train_files": [job["pairs"]],
        "data.val_files": [job["pairs"]],
        "data.max_prompt_length": LONGEST,
        "data.max_response_length": LONGEST,
        "data.train_batch_size": BATCH,
        "data.max_token_len_per_gpu": 2 * LONGEST,
        "model.path": job["model"],
        "model.use_remove_padding": "false",
        "+model.override_config.attn_implementation": "sdpa",
        "algorithm.loss_type": job["loss"],
        "algorithm.beta": BETA,
        "algorithm.reference": "precompute",
        "algorithm.reference_path": str(Path(job["model"]).with_name("reference")),
        **{f"algorithm.{name}": value for name, value in job["options"].items()},
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
    with initialize_config_dir(config_dir=str(ROOT / "dpo"), version_base=None):
        return compose("config", ["+hardware=cpu", *(f"{key}={value}" for key, value in settings.items())])


def kit_side(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the kit's trainer in this process."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29517")
    os.environ.update(RUN_DIR=job["folder"], ALGORITHM="dpo")
    sys.path.insert(0, str(ROOT))
    from verl.utils import tensordict_utils as tu
    from verl.utils.distributed import initialize_global_process_group

    from dpo.pairs import gather_records
    from dpo.trainer import DPOTrainer

    config = kit_config(job)
    initialize_global_process_group()
    found: dict[str, Any] = {"losses": [], "pairs": []}

    class InOrder(DPOTrainer):
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
            if step == 0:
                for data in self.val_dataloader:
                    batch = self._with_reference(self._batch(data), "val")
                    records = gather_records(tu.get(self.training_client.infer_batch(batch), "metrics"))
                    values = records.pair, records.pair_loss, records.chosen_reward, records.rejected_reward
                    found["pairs"] += zip(*values, strict=True)
            return {}

        def _tracking(self) -> Any:
            return self

        def log(self, data: dict[str, float], step: int) -> None:
            found["losses"] += [data["train/loss"]] if "train/loss" in data else []

    started = time.perf_counter()
    trainer = InOrder(config)
    found["setup"] = time.perf_counter() - started
    started = time.perf_counter()
    trainer.fit()
    found["seconds"] = time.perf_counter() - started
    found["pairs"] = [list(values) for _, *values in sorted(found["pairs"])]
    return found


def trl_config(job: dict[str, Any]) -> Any:
    """TRL's config for a job."""
    from trl import DPOConfig

    return DPOConfig(
        output_dir=job["folder"],
        loss_type=LOSSES[job["loss"]][0],
        beta=BETA,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP,
        max_steps=job["steps"],
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        precompute_ref_log_probs=job["speed"],
        **job["options"],
    )


def trl_side(job: dict[str, Any]) -> dict[str, Any]:
    """Runs TRL's trainer in this process (of its own environment)."""
    import torch
    from datasets import load_dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOTrainer

    class InOrder(DPOTrainer):
        """Takes the pairs in the file's order."""

        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    reference = Path(job["model"]).with_name("reference")
    model, reference = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (job["model"], reference)
    )
    rows = load_dataset("json", data_files=str(Path(job["pairs"]).with_suffix(".jsonl")), split="train")
    started = time.perf_counter()
    trainer = InOrder(
        model=model,
        ref_model=reference,
        args=trl_config(job),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
    )
    found: dict[str, Any] = {"setup": time.perf_counter() - started, "pairs": []}
    if not job["speed"]:
        trainer.model.eval()
        for row in trainer.train_dataset:
            inputs = trainer._prepare_inputs(trainer.data_collator([row]))
            with torch.no_grad():
                loss = trainer.compute_loss(trainer.model, inputs).item()
            kept = next(iter(group for group in trainer._metrics.values() if "rewards/chosen" in group))
            found["pairs"].append([loss, kept["rewards/chosen"][-1], kept["rewards/rejected"][-1]])
        for group in trainer._metrics.values():
            group.clear()
        trainer.model.train()
    started = time.perf_counter()
    trainer.train()
    found["seconds"] = time.perf_counter() - started
    found["losses"] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return found


SIDES = {"kit": kit_side, "trl": trl_side}


def run(side: str, python: str, job: dict[str, Any]) -> dict[str, Any]:
    """One side in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        job = {**job, "folder": str(Path(folder) / "run" / "checkpoints")}
        Path(job["folder"]).mkdir(parents=True)
        modules = "common.cpu_backend.process_group,common.cpu_backend.platform,common.cpu_backend.engine"
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        if side == "kit":
            environment |= {
                "PYTHONPATH": str(ROOT),
                "VERL_PLATFORM": "cpu",
                "VERL_USE_EXTERNAL_MODULES": f"{modules},common.verl_patches",
                "SEED": "1",
            }
        command = [python, __file__, "--side", side, "--job", json.dumps(job)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{side}: {done.stderr[-3000:]}")
        return json.loads(done.stdout.split("RESULT ")[1].splitlines()[0])


def compare(trl: str, model: Path, pairs: Path) -> None:
    """Prints the largest differences for each loss."""
    for loss, (_, options) in LOSSES.items():
        job = {
            "loss": loss,
            "options": options,
            "model": str(model),
            "pairs": str(pairs),
            "steps": STEPS,
            "speed": False,
        }
        ours, theirs = run("kit", sys.executable, job), run("trl", trl, job)
        gaps = [
            max(abs(one[i] - other[i]) for one, other in zip(ours["pairs"], theirs["pairs"], strict=True))
            for i in range(3)
        ]
        steps = [abs(one - other) for one, other in zip(ours["losses"], theirs["losses"], strict=True)]
        print(
            f"{loss:8} per pair: loss {gaps[0]:.1e}, rewards {max(gaps[1:]):.1e}; "
            f"{len(steps)} steps: {max(steps):.1e} (last {ours['losses'][-1]:.5f} and {theirs['losses'][-1]:.5f})",
            flush=True,
        )


def speed(trl: str, model: Path, pairs: Path, count: int, repeats: int) -> None:
    """Prints pairs a second over two epochs, reference included, in turn."""
    steps = 2 * (count // BATCH)
    job = {"loss": "sigmoid", "options": {}, "model": str(model), "pairs": str(pairs), "steps": steps, "speed": True}
    for number in range(repeats):
        order = ("kit", "trl") if number % 2 == 0 else ("trl", "kit")
        found = {side: run(side, sys.executable if side == "kit" else trl, job) for side in order}
        rate = {side: steps * BATCH / (found[side]["setup"] + found[side]["seconds"]) for side in order}
        print(
            f"kit {rate['kit']:.2f}, TRL {rate['trl']:.2f} pairs a second: {rate['kit'] / rate['trl']:.2f} times",
            flush=True,
        )


def main() -> None:
    """Make model and pairs, run both sides, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl", metavar="PYTHON", help="python of an environment with TRL")
    parser.add_argument("--pairs", type=Path, help="preference data of any form")
    parser.add_argument("--speed", action="store_true", help="measure speed on a model of 30M parameters instead")
    parser.add_argument("--count", type=int, default=64, help="pairs to use (default: 64; for --speed give 300)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print("\nRESULT " + json.dumps(SIDES[arguments.side](arguments.job)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model, pairs = Path(folder) / "model", Path(folder) / "pairs.parquet"
        make_model(model, arguments.speed)
        make_pairs(arguments.pairs, pairs, model, arguments.count)
        if arguments.speed:
            speed(arguments.trl, model, pairs, arguments.count, arguments.repeats)
        else:
            compare(arguments.trl, model, pairs)


if __name__ == "__main__":
    main()
