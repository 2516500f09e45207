"""The DPO trainer against TRL's ``DPOTrainer``: losses, rewards and speed on the same model, pairs and optimiser.

    python -m venv /tmp/trl && /tmp/trl/bin/pip install trl torch==2.13.0     # TRL in a separate environment
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
from pathlib import Path
from typing import Any

from dpo_sides import LOSSES

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SIDES = ROOT / "benchmarks" / "dpo_sides.py"
STEPS, BATCH, SPEED_BATCH = 10, 4, 8
LONGEST = 500  # tokens of a pair's longer sequence, so that nothing is cut on either side
SPEED_TOKENS, SPEED_LONGEST = 256, 4096  # of a text, and of a sequence (several turns), in the runs for speed
SMALL, LARGE = (128, 4, 4, 2, 4096), (512, 7, 8, 4, 8192)
KEPT = 4  # pairs whose figures the unit tests hold
TEMPLATE_END = "{{ '<|im_end|>\\n' }}"


def read_pairs(source: Path, target: Path) -> list[dict[str, Any]]:
    """The rows of a file of any form, as the kit reads them."""
    import pyarrow.parquet as pq

    from common.data_utils import json_to_parquet

    json_to_parquet(source, target, "dpo")
    return pq.read_table(target).to_pylist()


def make_model(folder: Path, rows: list[dict[str, Any]], sizes: tuple[int, ...]) -> Any:
    """A model with random weights, next to it a reference and a reward model; returns its tokenizer, from the texts.

    The template is the demo's but for the line break behind an answer: TRL would learn it, the kit does not.

    Args:
        folder: Where to.
        rows: The pairs.
        sizes: Hidden size, layers, attention heads, key-value heads, tokens of the vocabulary.
    """
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

    demo = ROOT / "common" / "demo_model" / "model"
    tokenizer = AutoTokenizer.from_pretrained(demo)
    template = tokenizer.chat_template.replace(
        TEMPLATE_END, "{{ '<|im_end|>' }}{% if not loop.last or add_generation_prompt %}{{ '\\n' }}{% endif %}"
    )
    hidden, layers, heads, kv_heads, vocabulary = sizes
    texts = [turn["content"] for row in rows for turns in row.values() for turn in turns]
    tokenizer = tokenizer.train_new_from_iterator(texts, vocabulary)
    tokenizer.chat_template = template
    config = Qwen2Config.from_pretrained(demo)
    config.vocab_size, config.hidden_size, config.intermediate_size = len(tokenizer), hidden, 4 * hidden
    config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads = layers, heads, kv_heads
    config.layer_types = ["full_attention"] * layers
    config.bos_token_id, config.eos_token_id = None, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).float()
    print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens", flush=True)
    # A reference that differs: the model itself would give log 2 for every pair, whatever the code does.
    for path in (folder, folder.with_name("reference")):
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.02 * torch.randn_like(weight)
    scorer = Qwen2ForSequenceClassification.from_pretrained(folder, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    scorer.save_pretrained(folder.with_name("scorer"))
    tokenizer.save_pretrained(folder.with_name("scorer"))
    return tokenizer


def write_pairs(rows: list[dict[str, Any]], target: Path) -> None:
    """The kit's parquet file and, next to it, JSONL for TRL."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), target)
    target.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} pairs")


def that_fit(rows: list[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """The rows of which nothing would be cut."""

    def length(row: dict[str, Any], side: str) -> int:
        return len(tokenizer(tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False))["input_ids"])

    return [row for row in rows if max(length(row, side) for side in ("chosen", "rejected")) <= LONGEST]


def shortened(rows: list[dict[str, Any]], tokenizer: Any, tokens: int) -> list[dict[str, Any]]:
    """The rows with texts of at most so many tokens each, so that a CPU can do two epochs of them."""

    def cut(text: str) -> str:
        return tokenizer.decode(tokenizer(text)["input_ids"][:tokens])

    return [
        {side: [{**turn, "content": cut(turn["content"])} for turn in turns] for side, turns in row.items()}
        for row in rows
    ]


def run(side: str, python: str, job: dict[str, Any]) -> dict[str, Any]:
    """One side in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        job = {
            **job,
            "longest": SPEED_LONGEST if job["speed"] else LONGEST,
            "folder": str(Path(folder) / "run" / "checkpoints"),
        }
        Path(job["folder"]).mkdir(parents=True)
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
        if side == "kit":
            from common.preflight.knobs import read_knobs
            from common.preflight.resolved import process_environment

            environment |= process_environment(read_knobs("dpo", {"DEVICE": "cpu", "ATTENTION": "sdpa_varlen"}))
            environment |= {"PYTHONPATH": str(ROOT), "SEED": "1"}
        command = [python, str(SIDES), side, json.dumps(job)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{side}: {done.stderr[-3000:]}")
        return json.loads(done.stdout.split("RESULT ")[1].splitlines()[0])


def gap(one: float, other: float) -> float:
    """The difference, of numbers above 1 as a share: the squares of sppo go into the thousands, in float32."""
    return abs(one - other) / max(1.0, abs(other))


def compare(trl: str, model: Path, pairs: Path, losses: list[str]) -> dict[str, dict[str, Any]]:
    """Prints the largest differences for each loss; returns what the unit tests keep of the first pairs."""
    kept: dict[str, dict[str, Any]] = {}
    for loss in losses:
        job = {"loss": loss, "model": str(model), "pairs": str(pairs), "steps": STEPS, "batch": BATCH, "speed": False}
        ours, theirs = run("kit", sys.executable, job), run("trl", trl, job)
        gaps = [
            max(gap(one[i], other[i]) for one, other in zip(ours["pairs"], theirs["pairs"], strict=True))
            for i in range(3)  # loss, chosen and rejected reward; of one answer its own
        ]
        steps = [gap(one, other) for one, other in zip(ours["losses"], theirs["losses"], strict=True)]
        print(
            f"{loss:10} per pair: loss {gaps[0]:.1e}, rewards {max(gaps[1:]):.1e}; "
            f"{len(steps)} steps: {max(steps):.1e} (last {ours['losses'][-1]:.5f} and {theirs['losses'][-1]:.5f})",
            flush=True,
        )
        if LOSSES[loss][1] in ("kto", "reward"):
            continue
        kept[loss] = {"options": LOSSES[loss][0], "trl": theirs["pairs"][:KEPT], "kit": ours["pairs"][:KEPT]}
    return kept


def speed(trl: str, model: Path, pairs: Path, count: int, repeats: int, against: list[str]) -> None:
    """Prints pairs a second over two epochs, in turn; everything after loading the model counts.

    Both keep the reference's log-probabilities; TRL also as it comes, which asks the reference for every batch.
    """
    steps = 2 * (count // SPEED_BATCH)
    job = {"loss": "sigmoid", "model": str(model), "pairs": str(pairs), "steps": steps, "batch": SPEED_BATCH}
    names = {"plain": ("TRL", ("trl", False)), "kept": ("TRL, reference kept", ("trl", True))}
    sides = {"kit": ("kit", True), **dict(names[one] for one in against)}
    for number in range(repeats):
        rate = {}
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            side, keep = sides[name]
            found = run(side, sys.executable if side == "kit" else trl, {**job, "speed": True, "keep": keep})
            rate[name] = steps * SPEED_BATCH / (found["setup"] + found["seconds"])
            rate[name + ", CPU"] = steps * SPEED_BATCH / found["cpu"]
        kit = rate["kit"], rate["kit, CPU"]
        for name in list(sides)[1:]:
            print(
                f"kit {kit[0]:.2f}, {name} {rate[name]:.2f} pairs a second: {kit[0] / rate[name]:.2f} times "
                f"(by CPU time {kit[1] / rate[name + ', CPU']:.2f})",
                flush=True,
            )


def main() -> None:
    """Make model and pairs, run both sides, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl", metavar="PYTHON", required=True, help="python of an environment with TRL")
    parser.add_argument("--pairs", type=Path, required=True, help="preference data of any form")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES), help="default: all")
    parser.add_argument("--keep", metavar="FILE", type=Path, help="write the figures of the first pairs, for the tests")
    parser.add_argument("--speed", action="store_true", help="measure speed on a model of 30M parameters instead")
    parser.add_argument("--count", type=int, default=64, help="pairs to use (default: 64; for --speed give 300)")
    parser.add_argument("--tokens", type=int, default=SPEED_TOKENS, help="of a text, with --speed (default: 256)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", nargs="+", choices=("plain", "kept"), default=["plain", "kept"],
                        help="TRL as it comes, and with the reference's figures kept, with --speed")  # fmt: skip
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, pairs = Path(folder) / "model", Path(folder) / "pairs.parquet"
        rows = read_pairs(arguments.pairs, pairs)
        tokenizer = make_model(model, rows, LARGE if arguments.speed else SMALL)
        usable = shortened(rows, tokenizer, arguments.tokens) if arguments.speed else that_fit(rows, tokenizer)
        write_pairs(usable[: arguments.count], pairs)
        if arguments.speed:
            speed(arguments.trl, model, pairs, len(usable[: arguments.count]), arguments.repeats, arguments.against)
            return
        kept = compare(arguments.trl, model, pairs, arguments.losses)
        if arguments.keep:
            before = json.loads(arguments.keep.read_text()) if arguments.keep.is_file() else {}
            arguments.keep.write_text(json.dumps({**before, **kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
