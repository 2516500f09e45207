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
from pathlib import Path
from typing import Any

from dpo_sides import LOSSES

ROOT = Path(__file__).resolve().parents[1]
SIDES = ROOT / "benchmarks" / "dpo_sides.py"
STEPS, BATCH, SPEED_BATCH = 10, 4, 8
LONGEST = 1100  # tokens of a pair's longer sequence, so that nothing is cut on either side
KEPT = 4  # pairs whose figures the unit tests hold
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


def run(side: str, python: str, job: dict[str, Any]) -> dict[str, Any]:
    """One side in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        job = {**job, "longest": LONGEST, "folder": str(Path(folder) / "run" / "checkpoints")}
        Path(job["folder"]).mkdir(parents=True)
        modules = "common.cpu_backend.process_group,common.cpu_backend.platform,common.cpu_backend.engine"
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
        if side == "kit":
            environment |= {
                "PYTHONPATH": str(ROOT),
                "VERL_PLATFORM": "cpu",
                "VERL_USE_EXTERNAL_MODULES": f"{modules},common.verl_patches",
                "SEED": "1",
            }
        command = [python, str(SIDES), side, json.dumps(job)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{side}: {done.stderr[-3000:]}")
        return json.loads(done.stdout.split("RESULT ")[1].splitlines()[0])


def compare(trl: str, model: Path, pairs: Path, losses: list[str]) -> dict[str, dict[str, Any]]:
    """Prints the largest differences for each loss; returns what the unit tests keep of the first pairs."""
    kept: dict[str, dict[str, Any]] = {}
    for loss in losses:
        job = {"loss": loss, "model": str(model), "pairs": str(pairs), "steps": STEPS, "batch": BATCH, "speed": False}
        ours, theirs = run("kit", sys.executable, job), run("trl", trl, job)
        gaps = [
            max(abs(one[i] - other[i]) for one, other in zip(ours["pairs"], theirs["pairs"], strict=True))
            for i in range(3)  # loss, chosen and rejected reward
        ]
        steps = [abs(one - other) for one, other in zip(ours["losses"], theirs["losses"], strict=True)]
        print(
            f"{loss:10} per pair: loss {gaps[0]:.1e}, rewards {max(gaps[1:]):.1e}; "
            f"{len(steps)} steps: {max(steps):.1e} (last {ours['losses'][-1]:.5f} and {theirs['losses'][-1]:.5f})",
            flush=True,
        )
        kept[loss] = {"options": LOSSES[loss][0], "trl": theirs["pairs"][:KEPT], "kit": ours["pairs"][:KEPT]}
    return kept


def speed(trl: str, model: Path, pairs: Path, count: int, repeats: int) -> None:
    """Prints pairs a second over two epochs, reference included, in turn."""
    steps = 2 * (count // SPEED_BATCH)
    job = {
        "loss": "sigmoid",
        "model": str(model),
        "pairs": str(pairs),
        "steps": steps,
        "batch": SPEED_BATCH,
        "speed": True,
    }
    for number in range(repeats):
        order = ("kit", "trl") if number % 2 == 0 else ("trl", "kit")
        found = {side: run(side, sys.executable if side == "kit" else trl, job) for side in order}
        rate = {side: steps * SPEED_BATCH / (found[side]["setup"] + found[side]["seconds"]) for side in order}
        print(
            f"kit {rate['kit']:.2f}, TRL {rate['trl']:.2f} pairs a second: {rate['kit'] / rate['trl']:.2f} times",
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
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, pairs = Path(folder) / "model", Path(folder) / "pairs.parquet"
        make_model(model, arguments.speed)
        make_pairs(arguments.pairs, pairs, model, arguments.count)
        if arguments.speed:
            speed(arguments.trl, model, pairs, arguments.count, arguments.repeats)
        else:
            kept = compare(arguments.trl, model, pairs, arguments.losses)
            if arguments.keep:
                arguments.keep.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
