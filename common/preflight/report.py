"""What a person reads: a line for each knob that was chosen, the plan, warnings, errors; and the same as JSON."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.console import SafeConsole
from common.plan.duration import seconds_per_step
from common.plan.fit import Fit
from common.plan.machine import GIB
from common.plan.traffic import Step, traffic, waiting
from common.preflight.knobs import SUPERVISED, Knobs

STYLES = {"error": "bold red", "warning": "yellow", "auto": "cyan", "ok": "green", "set": ""}


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Args:
        what: Knob, key or thing.
        value: Its value.
        verdict: ``ok``, ``auto`` (chosen), ``set`` (by the user), ``warning`` or ``error``.
        text: Why, or what is wrong.
        fix: What to do, empty when nothing is.
    """

    what: str
    value: str
    verdict: str
    text: str
    fix: str = ""


def rows_of(knobs: Knobs) -> list[Row]:
    """All that is known about a launch: the knobs, what was checked, warnings and errors."""
    rows = []
    for name, value in knobs.values.items():
        source = "from the environment" if name in knobs.given else ""
        rows.append(Row(name, value, "auto" if name in knobs.reasons else "set", knobs.reasons.get(name, source)))
    rows += [Row(what, value, "ok", note) for what, value, note in knobs.facts]
    for verdict, found in (("warning", knobs.warnings), ("error", knobs.errors)):
        rows += [Row(one.knob, one.value, verdict, one.problem, one.fix) for one in found]
    return rows


def show(knobs: Knobs) -> None:
    """Print knobs out of the environment, those chosen with their reasons, plan, warnings, every error, to stderr."""
    console = SafeConsole(file=sys.stderr, highlight=False, soft_wrap=True)
    if knobs.given and not os.environ.get("STAGE"):  # a stage of self-play gets all its knobs this way
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in knobs.given.items())
        console.print(Text(f"  from the environment: {given}", style="default"))
    if not knobs.errors:
        for name, reason in knobs.reasons.items():
            console.print(Text(f"  {name}=auto -> {knobs[name]}", style="default").append(f"  ({reason})", style="dim"))
        if knobs.plan:
            console.print(Text(f"  plan: {plan_line(knobs)}", style="default"))
    for warning in knobs.warnings:
        console.print(Text("note: ", style="yellow").append(warning, style="default"))
    _errors(console, knobs)


def _errors(console: Console, knobs: Knobs) -> None:
    for error in knobs.errors:
        console.print(Text("error: ", style="bold red").append(error, style="default"))
    if knobs.errors:
        count = len(knobs.errors)
        console.print(f"{count} error{'s' if count > 1 else ''}; nothing was started, nothing was written.")


def show_table(knobs: Knobs) -> None:
    """Print everything as a table, for a person who has asked for it."""
    console = SafeConsole(highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("what", "value", "verdict", "why, and what to do"):
        table.add_column(name, overflow="fold", no_wrap=name in ("what", "verdict"))
    for row in sorted(rows_of(knobs), key=lambda row: list(STYLES).index(row.verdict), reverse=True):
        style = STYLES[row.verdict]
        why = Text(row.text).append(f"\n-> {row.fix}" if row.fix else "", "bold")
        table.add_row(Text(row.what), Text(row.value), Text(row.verdict, style), why)
    console.print(table)
    if knobs.plan:
        console.print()
        console.print(plan_table(knobs.plan))
        console.print(plan_line(knobs), soft_wrap=True)
    errors = len(knobs.errors)
    console.print(f"{errors} error{'' if errors == 1 else 's'}, {len(knobs.warnings)} warnings")


def plan_table(fit: Fit) -> Table:
    """Memory by part, in GiB: on a GPU in each phase, on the host of a node, on disk for a checkpoint."""
    table = Table(title=f"Memory in GiB, {fit.setup.gpus}", title_justify="left", box=None, header_style="bold")
    phases = {
        "training": fit.memory.training,
        "new weights": fit.memory.handing_over,
        "generating": fit.memory.generating,
        "scoring": fit.memory.scoring,
        "host": fit.memory.host,
        "checkpoint": fit.memory.checkpoint,
    }
    phases = {name: parts for name, parts in phases.items() if parts}
    table.add_column("part")
    for name in phases:
        table.add_column(name, justify="right")
    parts = list(dict.fromkeys(part for phase in phases.values() for part in phase))
    for part in parts:
        cells = [f"{phase[part] / GIB:.1f}" if phase.get(part) else "" for phase in phases.values()]
        if any(cells):
            table.add_row(part, *cells)
    table.add_row("sum", *(f"{sum(phase.values()) / GIB:.1f}" for phase in phases.values()), style="bold")
    return table


def plan_line(knobs: Knobs) -> str:
    """The plan in one line: the GPU's peak, host memory, checkpoint, steps and a rough time."""
    fit = knobs.plan
    memory, setup = fit.memory, fit.setup
    words = [
        f"{memory.peak / GIB:.0f} of {setup.gpus.memory / GIB:.0f} GiB on each of {setup.gpus.count} GPUs",
        f"{sum(memory.host.values()) / GIB:.0f} GiB of host memory",
        f"{sum(memory.checkpoint.values()) / GIB:.0f} GiB a checkpoint",
    ]
    phases = step_seconds(knobs)
    if "network" in phases:
        size = sum(traffic(fit, step_of(knobs)).values()) / GIB
        words.append(
            f"{size:.0f} GiB into each machine a step, for which the GPUs wait {_duration(phases['network'])} of it at "
            f"{setup.gpus.network:g} Gbit/s"
        )
    steps, seconds = knobs.number("TOTAL_STEPS"), sum(phases.values())
    if steps and seconds:
        words.append(f"{steps} steps of roughly {_duration(seconds)}, {_duration(steps * seconds)} in all")
    return ", ".join(words) + f" (time as of a {setup.gpus.card[0]}, within a factor of two)"


def step_of(knobs: Knobs) -> Step:
    """What a step does; answers are taken to be half as long as they may be."""
    batch, mini = knobs.number("BATCH_SIZE"), knobs.number("MINI_BATCH_SIZE") if "MINI_BATCH_SIZE" in knobs else 0
    if knobs.algorithm in SUPERVISED:
        sides = 2 if knobs.data_form == "dpo" else 1
        return Step(batch, sides, knobs.plan.setup.sequence // sides // 2)
    prompt, answer = knobs.number("MAX_PROMPT_LENGTH") // 2, knobs.number("MAX_RESPONSE_LENGTH") // 2
    return Step(batch, knobs.number("ROLLOUT_N"), prompt + answer, max(1, batch // mini) if mini else 1)


def step_seconds(knobs: Knobs) -> dict[str, float]:
    """A rough time of each phase of a step, and of the waiting for the network where there are several machines."""
    if not knobs.number("BATCH_SIZE"):
        return {}
    step = step_of(knobs)
    answer = step.tokens if knobs.algorithm in SUPERVISED else knobs.number("MAX_RESPONSE_LENGTH") // 2
    phases = seconds_per_step(knobs.plan, step.rows, step.answers, step.tokens - answer, answer)
    if knobs.plan.setup.gpus.nodes > 1:
        phases["network"] = waiting(knobs.plan, step, phases)
    return phases


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def as_json(knobs: Knobs) -> str:
    """Everything for a program."""
    content: dict[str, Any] = {
        "algorithm": knobs.algorithm,
        "ok": not knobs.errors,
        "knobs": knobs.values,
        "rows": [vars(row) for row in rows_of(knobs)],
        "plan": None,
    }
    if knobs.plan:
        memory, setup = knobs.plan.memory, knobs.plan.setup
        content["plan"] = {
            "fits": knobs.plan.fits,
            "gpus": {
                "count": setup.gpus.count,
                "nodes": setup.gpus.nodes,
                "bytes": setup.gpus.memory,
                "gbit": setup.gpus.network,
            },
            "parameters": setup.model.parameters,
            "active_parameters": setup.model.active,
            "bytes": {name: value for name, value in vars(memory).items() if isinstance(value, dict)},
            "kv_tokens": memory.kv_tokens,
            "step_seconds": step_seconds(knobs),
            "network_bytes": traffic(knobs.plan, step_of(knobs)),
        }
    return json.dumps(content, ensure_ascii=False)
