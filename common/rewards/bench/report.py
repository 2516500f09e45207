"""The bench on the command line: its options, the table for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from common.console import write_error
from common.rewards.bench.data import TRUTHS, answered_rows, make_cases, read_responses, read_rows
from common.rewards.bench.findings import judge
from common.rewards.bench.trial import LIMIT_S, Finding, Outcome, Trial, find_target, try_reward
from common.worker import WorkerNotStarted

ROWS = 50
MARKS = {"ok": "[green]ok[/]", "note": "[dim]note[/]", "warn": "[yellow]warn[/]", "fail": "[bold red]FAIL[/]"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `bench`."""
    parser.add_argument("--reward", required=True, help="FILE.py, FILE.py:NAME, or a name such as gsm8k")
    parser.add_argument("--data", required=True, type=Path, help="rows as verl's RL trainers read them")
    parser.add_argument("--responses", type=Path, help="answers of a model: jsonl, or a rollouts/N.jsonl of a run")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows that get all answers (default {ROWS})")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help=f"seconds a call may take (default {LIMIT_S:g})")
    parser.add_argument("--kwargs", type=json.loads, default={}, help="reward_kwargs as JSON: '{\"max_length\": 512}'")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    """Runs the bench; returns the exit status: 0 fine (perhaps with warnings), 1 a failure, 2 cannot be run."""
    try:
        if options.rows < 1 or options.limit <= 0 or not isinstance(options.kwargs, dict):
            raise ValueError("--rows must be at least 1, --limit above 0, --kwargs a JSON object")
        target = find_target(options.reward, options.kwargs)
        extra = answered_rows(options.responses) if options.responses else ()
        rows = read_rows(options.data, options.rows + TRUTHS, extra)
        cases = make_cases(rows, options.rows)
        cases += read_responses(options.responses, rows) if options.responses else []
    except (ValueError, OSError) as error:
        write_error(f"error: {error}")
        return 2
    try:
        trial = try_reward(target, cases, options.limit)
    except WorkerNotStarted as error:
        findings, trial = [Finding("fail", "load", f"{target.path}: {target.name} {error}")], Trial(target)
    else:
        findings = judge(trial)
    failed = any(finding.status == "fail" for finding in findings)
    if options.json:
        print(json.dumps(as_json(trial, findings, failed), ensure_ascii=True))
    else:
        show(trial, findings, failed)
    return int(failed)


def as_json(trial: Trial, findings: list[Finding], failed: bool) -> dict[str, Any]:
    """Returns the report as plain data."""
    return {
        "reward": str(trial.target.path),
        "name": trial.target.name,
        "calls": len(trial.outcomes),
        "passed": not failed,
        "findings": [asdict(finding) for finding in findings],
        "answers": by_kind(trial),
    }


def by_kind(trial: Trial) -> list[dict[str, Any]]:
    """Returns a row per kind and form of answer: calls, mean, lowest and highest score, share of zeros, time."""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in trial.outcomes:
        groups[outcome.case.kind, outcome.case.form].append(outcome)
    return [{"kind": kind, "form": form, "calls": len(hit), **_numbers(hit)} for (kind, form), hit in groups.items()]


def _numbers(hit: list[Outcome]) -> dict[str, float | None]:
    scores = [outcome.score for outcome in hit if outcome.score is not None]
    return {
        "mean": mean(scores) if scores else None,
        "lowest": min(scores, default=None),
        "highest": max(scores, default=None),
        "zeros": mean(score == 0 for score in scores) if scores else None,
        "mean_s": mean(outcome.seconds for outcome in hit),
    }


def show(trial: Trial, findings: list[Finding], failed: bool) -> None:
    """Prints the report."""
    from rich.markup import escape
    from rich.table import Table

    from common.console import SafeConsole

    console = SafeConsole(width=None if sys.stdout.isatty() else 120)
    answers = Table(title=f"{trial.target.path.name}:{trial.target.name} on {len(trial.outcomes):,} answers")
    for name, justify in (("answer", "left"), ("written as", "left"), *((n, "right") for n in NUMBERS)):
        answers.add_column(name, justify=justify)
    for row in by_kind(trial):
        numbers = [_number(row[key]) for key in ("mean", "lowest", "highest")]
        answers.add_row(row["kind"], escape(row["form"]), str(row["calls"]), *numbers, f"{row['mean_s'] * 1e3:.3f}")
    verdicts = Table(show_lines=False)
    for name in ("", "check", "found, and what to do"):
        verdicts.add_column(name, overflow="fold")
    for finding in findings:
        todo = f"\n[bold]->[/] {escape(_printable(finding.todo))}" if finding.todo else ""
        verdicts.add_row(MARKS[finding.status], finding.check, escape(_printable(finding.found)) + todo)
    if trial.outcomes:
        console.print(answers)
    console.print(verdicts)
    warnings = sum(finding.status == "warn" for finding in findings)
    words = f"[green]usable[/], {warnings} warning{'' if warnings == 1 else 's'}"
    console.print("[bold red]not usable as it is[/]" if failed else words)


NUMBERS = ("calls", "mean score", "lowest", "highest", "ms a call")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _printable(text: str) -> str:
    """Writes lone surrogates as escapes, which no terminal takes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
