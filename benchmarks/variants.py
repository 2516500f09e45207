"""The variants of GRPO side by side on the demo: reward, validation, KL and time, as a Markdown table.

    python benchmarks/variants.py                        # trains them all, about 2 minutes each on two quiet cores
    python benchmarks/variants.py --only dapo rloo --steps 20
    python benchmarks/variants.py --table                # only the table, from the runs that are there

The KL is that of the trained model to the demo model, measured alike for all: over the whole vocabulary, at each token
of greedy answers of the trained model to the validation prompts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = sorted(path.stem for path in (ROOT / "grpo" / "variants").glob("*.yaml"))
SMOOTH = 3  # steps that the first and the last reward are the mean of


def train(variant: str, steps: int, outputs: Path) -> None:
    """Train one variant for some steps, validating at the end."""
    knobs = {"VARIANT": variant, "EXPERIMENT_NAME": f"v-{variant}", "OUTPUTS_DIR": str(outputs)}
    knobs |= {"TOTAL_STEPS": str(steps), "TEST_FREQ": str(steps), "SAVE_FREQ": str(steps)}
    subprocess.run([str(ROOT / "grpo" / "train.sh")], env={**os.environ, **knobs}, check=True)


def measured(run_dir: Path, steps: int) -> dict[str, float]:
    """Rewards, validation scores and the median time of the first steps of a run."""
    from common.metrics.names import friendly
    from common.run_dir import read_metrics

    records = {record["step"]: friendly(record["data"]) for record in read_metrics(run_dir)}
    trained = [records[step] for step in range(1, steps + 1)]
    rewards = [values["reward_mean"] for values in trained]
    return {
        "first": statistics.mean(rewards[:SMOOTH]),
        "last": statistics.mean(rewards[-SMOOTH:]),
        "val_first": records[0]["val_score"],
        "val_last": records[steps].get("val_score", float("nan")),
        "seconds": statistics.median(values["step_time"] for values in trained),
    }


def kl_to_demo(model_dir: Path) -> float:
    """Mean KL per token of a trained model to the demo model, in nats."""
    import pyarrow.parquet as pq
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from common.demo_model import DEMO_MODEL_DIR

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR, padding_side="left")
    policy, base = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in (model_dir, DEMO_MODEL_DIR)
    )
    rows = pq.read_table(ROOT / "grpo" / "data" / "val.parquet").to_pylist()
    texts = [tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True) for row in rows]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        ids = policy.generate(**batch, max_new_tokens=24, do_sample=False)
        prompt = batch["input_ids"].shape[1]
        answers = ids[:, prompt:] != tokenizer.pad_token_id
        mask = torch.cat([batch["attention_mask"], answers.long()], dim=1)
        ours, theirs = (
            model(ids, attention_mask=mask).logits[:, prompt - 1 : -1].double().log_softmax(-1)
            for model in (policy, base)
        )
        kl = (ours.exp() * (ours - theirs)).sum(-1)
    return float((kl * answers).sum() / answers.sum())


def main() -> int:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=VARIANTS, metavar="VARIANT")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--outputs", type=Path, nargs="+", default=[ROOT / "outputs" / "variants"])
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    print("| variant | reward, first and last 3 steps | validation | KL to the start | s per step |")
    print("| --- | --- | --- | --- | --- |")
    for variant in arguments.only:
        folders = [folder / f"v-{variant}" for folder in arguments.outputs]
        done = [folder for folder in folders if (folder / "model" / "config.json").is_file()]
        if not done and arguments.table:
            continue
        if not done:
            train(variant, arguments.steps, arguments.outputs[0].resolve())
        run_dir = (done or folders)[0]
        values = measured(run_dir, arguments.steps)
        print(
            f"| `{variant}` | {values['first']:.2f} -> {values['last']:.2f} | {values['val_first']:.2f} -> "
            f"{values['val_last']:.2f} | {kl_to_demo(run_dir / 'model'):.3f} | {values['seconds']:.1f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
