"""Merged models against the training engine: same logits; and the plan's bytes against what the engine holds.

    .venv/bin/python benchmarks/merge_proof.py                        # all of it, about 20 minutes on 2 cores
    .venv/bin/python benchmarks/merge_proof.py --only sft-2-lora dpo-1-full

Each case is a real run of a train.sh with some training processes, full or LoRA. Its last checkpoint is merged in
float32, and loaded by verl's own engine on as many processes; both compute the logits of the same tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CASES = [f"{a}-{ranks}-{kind}" for a in ("sft", "dpo", "grpo") for ranks in (1, 2, 4) for kind in ("full", "lora")]
SMALL = {"TOTAL_STEPS": "2", "TEST_FREQ": "2", "SAVE_FREQ": "2", "BATCH_SIZE": "16", "ATTENTION": "sdpa"}


def script(algorithm: str, ranks: int, lora: bool, name: str, *arguments: str) -> str:
    """The command of a run as bash, for more processes than there are cores too."""
    rate = "1e-2" if lora else "1e-3"
    knobs = {**SMALL, "LORA_RANK": "8" if lora else "0", "LEARNING_RATE": rate, "EXPERIMENT_NAME": name, "DRY_RUN": "1"}
    command = [str(ROOT / algorithm / "train.sh"), *arguments]
    done = subprocess.run(command, env=os.environ | knobs, capture_output=True, text=True, check=True)
    text = re.sub(r"--nproc-per-node=\d+", f"--nproc-per-node={ranks}", done.stdout)
    return re.sub(r"(trainer\.n_gpus_per_node=)\d+", rf"\g<1>{ranks}", text)


def run(text: str, log: Path, **variables: str) -> None:
    """Run a script of `script` with its output in a log."""
    with log.open("w") as stream:
        done = subprocess.run(
            ["bash", "-c", text], stdout=stream, stderr=stream, env=os.environ | variables, timeout=600
        )
    if done.returncode:
        raise SystemExit(f"{log.read_text()[-3000:]}\nfailed, see above")


def probe(checkpoint: Path, ranks: int, lora: bool, folder: Path):
    """Logits of the engine that has loaded a checkpoint, and the bytes that its first rank holds."""
    import torch

    shards = checkpoint / "actor" if (checkpoint / "actor").is_dir() else checkpoint
    where = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={shards}")
    name = f"probe-{os.getpid()}"
    text = script("sft", ranks, lora, name, *where).replace("verl.trainer.sft_trainer", "tests.e2e.engine_probe")
    out = folder / "probe.json"
    try:
        run(text, folder / "probe.log", PROBE_OUT=str(out))
    finally:
        shutil.rmtree(ROOT / "outputs" / name, ignore_errors=True)
    return torch.load(out.with_suffix(".pt"), weights_only=True), json.loads(out.read_text())


def prove(case: str, folder: Path) -> dict[str, float]:
    """One case: the largest difference of the logits, and measured over planned bytes."""
    import torch
    from transformers import AutoModelForCausalLM

    from common.checkpoints.integrity import newest_complete
    from common.checkpoints.layout import checkpoints_of
    from common.checkpoints.merge import merge
    from common.plan.memory import states
    from common.plan.weights import read_weights
    from tests.e2e.engine_probe import TOKENS

    algorithm, count, kind = case.split("-")
    ranks, lora = int(count), kind == "lora"
    text = script(algorithm, ranks, lora, f"proof-{case}")
    run_dir = folder / case
    text = re.sub(rf"{re.escape(str(ROOT))}/outputs/proof-{case}", str(run_dir), text)
    run_dir.mkdir()
    run(text, folder / f"{case}.log")
    checkpoint = checkpoints_of(run_dir)[-1]
    assert newest_complete(run_dir).checkpoint == checkpoint
    merge(checkpoint, run_dir / "merged", dtype="float32")
    expected, counted = probe(checkpoint.path, ranks, lora, folder)
    model = AutoModelForCausalLM.from_pretrained(run_dir / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        difference = (model(TOKENS).logits - expected).abs().max().item()
    planned = states(read_weights(model.config.to_dict()), 8 if lora else 0, ranks)
    return {"difference": difference, **{name: counted[name] / planned[name] for name in planned}}


def main() -> int:
    """Print a line a case; exit status 1 when one is off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, metavar="CASE", help=", ".join(CASES))
    worst = 0.0
    print(
        f"{'case':14} {'logits differ by':>17} {'weights':>9} {'gradients':>10} {'optimizer':>10}  measured / planned"
    )
    for case in parser.parse_args().only:
        with tempfile.TemporaryDirectory() as folder:
            found = prove(case, Path(folder))
        worst = max(worst, found["difference"])
        ratios = f"{found['weights']:9.4f} {found['gradients']:10.4f} {found['optimizer']:10.4f}"
        print(f"{case:14} {found['difference']:17.2e} {ratios}", flush=True)
    print(f"largest difference {worst:.2e}; the limit is 1e-5")
    return int(worst > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
