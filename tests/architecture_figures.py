"""Figures of a run with a small model of some architecture, each a difference to a separate computation.

What is compared with: float64, transformers' plain attention, one sequence at a time, no packing and no cache
(`tests.tiny_models`); the conversations as text; the trainer's shard with the adapter added by hand.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed.tensor  # the trainer's shards hold DTensors
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.checkpoints.layout import checkpoint_at
from common.checkpoints.merge import merge
from common.run_dir import read_metrics
from tests.conftest import ROOT
from tests.e2e.lora_probe import largest_difference
from tests.tiny_models import plain_greedy, plain_log_probs, plain_model

ROWS = 16  # of each data file: one batch
ANSWER = 16  # tokens
ASKED = 8  # questions for test.sh
ALPHA, RANK = 16, 8
AGREEMENT = "training/rollout_actor_probs_pearson_corr"
REWARD = '''"""A share that differs from answer to answer, also for a model that knows nothing."""


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    return sum(letter.isascii() and letter.isalpha() for letter in solution_str) / max(1, len(solution_str))
'''


# ---- data ------------------------------------------------------------------------------------------------------------


def conversations() -> list[list[dict[str, str]]]:
    """Rows of the SFT sample as conversations of one to four questions, short and long by turns."""
    rows = iter(pq.read_table(ROOT / "sft" / "data" / "train.parquet").to_pylist())
    return [sum((next(rows)["messages"] for _ in range(1 + number % 4)), []) for number in range(2 * ROWS)]


def write_data(algorithm: str, folder: Path) -> None:
    """`train.parquet`, `val.parquet` and `reward.py` of one algorithm, 16 rows each."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reward.py").write_text(REWARD)
    if algorithm == "sft":
        rows = [{"messages": talk} for talk in conversations()]
    else:
        rows = pq.read_table(ROOT / algorithm / "data" / "train.parquet").slice(0, 2 * ROWS).to_pylist()
    if algorithm == "dpo":
        turns = conversations()
        rows = [row | {"prompt": talk[:4] + row["prompt"]} for row, talk in zip(rows, turns, strict=True)]
    for name, part in (("train", rows[:ROWS]), ("val", rows[ROWS:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{name}.parquet")


# ---- what is compared with -------------------------------------------------------------------------------------------


def rendered(tokenizer: Any, talk: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
    """Ids of a whole conversation in ChatML, and which of them are the assistant's words and their end."""
    ids: list[int] = []
    taught: list[bool] = []
    for turn in talk:
        mine = turn["role"] == "assistant"
        parts = ((f"<|im_start|>{turn['role']}\n", False), (f"{turn['content']}<|im_end|>", mine), ("\n", False))
        for text, learn in parts:
            part = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids, taught = ids + part, taught + [learn] * len(part)
    return ids, taught


class Plain:
    """A model folder computed plainly."""

    def __init__(self, folder: Path):
        self.model, self.tokenizer = plain_model(folder), AutoTokenizer.from_pretrained(folder)

    def taught(self, talk: list[dict[str, str]]) -> torch.Tensor:
        """Log-probability of each token that a conversation teaches."""
        ids, taught = rendered(self.tokenizer, talk)
        return plain_log_probs(self.model, ids)[torch.tensor(taught[1:])]

    def answer(self, question: str) -> str:
        """The greedy answer to a question."""
        prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = plain_greedy(self.model, ids, ANSWER, self.tokenizer.eos_token_id)
        return self.tokenizer.decode(answer, skip_special_tokens=True)


def trained_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Base plus adapter as the trainer's only process saved them, in float64: W + alpha / r x B A."""
    folder = checkpoint / "actor" if (checkpoint / "actor").is_dir() else checkpoint
    state = torch.load(folder / "model_world_size_1_rank_0.pt", weights_only=False)
    state = {name: (one.to_local() if hasattr(one, "to_local") else one).double() for name, one in state.items()}
    weights = {}
    for name, weight in state.items():
        if "lora_" in name:
            continue
        for stem in _adapted(name):
            down, up = (state.get(f"{stem}.lora_{side}.default.weight") for side in "AB")
            if down is not None and weight.shape[-2:] == (up.shape[0], down.shape[1]):
                weight = weight + ALPHA / RANK * _product(weight, down, up)
        weights[name.replace("base_model.model.", "", 1).replace(".base_layer", "")] = weight
    return weights


def _adapted(name: str) -> list[str]:
    """Where the adapter of a weight may be: PEFT wraps the module of all experts once for each weight in it."""
    module = name.rpartition(".")[0]
    return [module.removesuffix(".base_layer" * times) for times in (1, 2) if module.endswith(".base_layer" * times)]


def _product(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """B A; of experts, (experts, out, in), each its own."""
    if weight.dim() == 2:
        return up @ down
    experts = len(weight)
    down, up = down.reshape(experts, -1, down.shape[1]), up.reshape(up.shape[0], -1, experts)
    return torch.einsum("ore,eri->eoi", up, down)


# ---- a run -----------------------------------------------------------------------------------------------------------


class Run:
    """A finished run: what it logged, what it was given, what became of its model.

    Args:
        folder: Run directory.
        model: What it started from.
        data: Folder of its data files.
    """

    def __init__(self, folder: Path, model: Path, data: Path):
        self.folder, self.model, self.data = folder, model, data
        self.logged = {record["step"]: record["data"] for record in read_metrics(folder)}

    def rows(self, split: str) -> list[dict[str, Any]]:
        """Rows of ``train`` or ``val``."""
        return pq.read_table(self.data / f"{split}.parquet").to_pylist()

    def merged(self, step: int) -> tuple[Path, float]:
        """A checkpoint as the kit merges it in float32, and the largest difference to the trainer's own weights."""
        checkpoint, target = self.folder / "checkpoints" / f"global_step_{step}", self.folder / f"float32-{step}"
        merge(checkpoint_at(checkpoint), target, dtype="float32")
        model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
        return target, largest_difference(model.state_dict(), trained_weights(checkpoint))

    def wrong_answers(self, model: Path, plain: Plain) -> float:
        """Share of test.sh's greedy answers that are not the plain ones."""
        questions, out = self.folder / "questions.jsonl", self.folder / "answers.jsonl"
        asked = [row["messages"][0]["content"] for row in self.rows("val")[:ASKED]]
        questions.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked))
        command = [str(ROOT / "test.sh"), "--model_path", str(model), "--batch", "--greedy", "--max_new_tokens"]
        command += [str(ANSWER), "--input_file", str(questions), "--output_file", str(out)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        answers = [json.loads(line)["response"] for line in out.read_text().splitlines()]
        pairs = zip(asked, answers, strict=True)
        return sum(plain.answer(question).strip() != answer.strip() for question, answer in pairs) / len(asked)


def sft_figures(run: Run) -> dict[str, float]:
    """Losses before the first update and after the last against plain ones; the merge; test.sh."""
    result, merge_difference = run.merged(3)
    start, end = Plain(run.model), Plain(result)
    first = -float(torch.cat([start.taught(row["messages"]) for row in run.rows("train")]).mean())
    last = -float(torch.cat([end.taught(row["messages"]) for row in run.rows("val")]).mean())
    return {
        "first loss": abs(run.logged[1]["train/loss"] - first),
        "trained loss": abs(run.logged[3]["val/loss"] - last),
        "moved": abs(run.logged[1]["train/loss"] - run.logged[3]["train/loss"]),
        "merge": merge_difference,
        "answers": run.wrong_answers(result, end),
    }


def dpo_figures(run: Run) -> dict[str, float]:
    """Log-probabilities of the validation's answers before and after training against plain ones; the merge."""
    result, merge_difference = run.merged(3)
    worst = 0.0
    for step, plain in ((0, Plain(run.model)), (3, Plain(result))):
        for side in ("chosen", "rejected"):
            rows = run.rows("val")
            lengths = [sum(rendered(plain.tokenizer, row[side])[1]) for row in rows]
            taught = [plain.taught(row["prompt"] + row[side]) for row in rows]
            expected = sum(float(one[-length:].sum()) for one, length in zip(taught, lengths, strict=True))
            worst = max(worst, abs(run.logged[step][f"val/logps/{side}"] * len(rows) - expected) / sum(lengths))
    moved = abs(run.logged[3]["val/loss"] - run.logged[0]["val/loss"])
    return {"logps": worst, "moved": moved, "merge": merge_difference}


def grpo_figures(run: Run) -> dict[str, float]:
    """Log-probabilities of rollout, trainer and reference at both steps against plain ones; the merge."""
    result, merge_difference = run.merged(1)
    base, updated = plain_model(run.model), plain_model(result)
    worst = {"rollout": 0.0, "trainer": 0.0, "reference": 0.0, "moved": 0.0}
    for step, policy in ((1, base), (2, updated)):
        for row in torch.load(run.folder / "kept" / f"{step}.pt"):
            ids, start = row["prompts"] + row["responses"], len(row["prompts"]) - 1
            ours, first = (plain_log_probs(one, ids)[start:] for one in (policy, base))
            found = (
                ("rollout", torch.tensor(row["rollout_log_probs"]) - ours),
                ("trainer", torch.tensor(row["old_log_probs"]) - ours),
                ("reference", torch.tensor(row["ref_log_prob"]) - first),
                ("moved", ours - first),
            )
            worst |= {name: max(worst[name], float(off.abs().max())) for name, off in found}
    agreement = min(values[AGREEMENT] for step, values in run.logged.items() if step)
    return worst | {"agreement": agreement, "merge": merge_difference}


FIGURES: dict[str, Callable[[Run], dict[str, float]]] = {"sft": sft_figures, "dpo": dpo_figures, "grpo": grpo_figures}
