"""What more machines bring, from the memory plan's own numbers: the table of docs/cluster-plan.md. Runs nothing.

    .venv/bin/python benchmarks/machines.py

GRPO with full fine-tuning and no reference model; prompts of 512 and answers of 1,536 tokens, 4 updates a step.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.plan.duration import seconds_per_step  # noqa: E402
from common.plan.fit import Fit, choose  # noqa: E402
from common.plan.machine import GIB, Gpus, parse_gpus  # noqa: E402
from common.plan.memory import Setup  # noqa: E402
from common.plan.traffic import Step, passes, traffic, waiting  # noqa: E402
from common.plan.weights import read_weights  # noqa: E402
from tests.published_models import MODELS  # noqa: E402

PROMPT, ANSWER, UPDATES = 512, 1536, 4
CASES = (("Qwen2.5-7B", "80GB", 1024), ("Qwen2.5-32B", "80GB", 1024), ("Qwen2.5-72B", "80GB", 1024))
CASES += (("Qwen2.5-7B", "141GB", 128), ("Qwen2.5-32B", "141GB", 128))
NETWORKS = (100, 400)


def plan(name: str, gpus: Gpus, rows: int) -> Fit:
    answers = -(-rows * 8 // gpus.count)
    return choose(Setup(read_weights(MODELS[name][0]), gpus, 0, 2 * (PROMPT + ANSWER), answers=answers))


def line(name: str, memory: str, rows: int, machines: int) -> str:
    fit = plan(name, parse_gpus(f"{machines}x8x{memory}"), rows)
    step = Step(rows, 8, PROMPT + ANSWER, UPDATES)
    phases = seconds_per_step(fit, rows, 8, PROMPT, ANSWER)
    size = sum(traffic(fit, step).values()) / GIB
    waits = []
    for network in NETWORKS:
        one = replace(fit, setup=replace(fit.setup, gpus=replace(fit.setup.gpus, network=network)))
        waits.append(f"{waiting(one, step, phases):,.0f}")
    setup = fit.setup
    chosen = f"{setup.offload}, {setup.tensor_parallel}, {setup.tokens}"
    cells = (
        f"{name}, {rows} x 8",
        f"{machines} x 8 x {memory}",
        chosen,
        f"{fit.memory.peak / GIB:.0f}",
        passes(fit, step),
    )
    return "| " + " | ".join(map(str, (*cells, f"{size:,.0f}", f"{sum(phases.values()):,.0f}", *waits))) + " |"


if __name__ == "__main__":
    for case in CASES:
        for machines in (1, 2, 4, 8):
            print(line(*case, machines))
