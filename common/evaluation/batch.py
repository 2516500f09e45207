"""A file of questions to one or several models, their answers scored, into one file."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.data.names import Columns
from common.evaluation.model_path import OUTPUTS, ModelSource, find_model
from common.evaluation.partial import Partial
from common.evaluation.questions import Question, file_digest, problems, read_questions
from common.evaluation.report.outputs import check_output, write_report
from common.evaluation.report.report import Report
from common.evaluation.rewards import Rewards, choose
from common.evaluation.run_model import Candidate, Job, get_ready, run_model
from common.evaluation.scorer import Scorer
from common.evaluation.settings import Backend, EvaluationError, Settings
from common.run_dir import read_run

GROUPS_SHOWN = 12  # at the terminal; the file has them all


@dataclass(frozen=True)
class BatchOptions:
    """What the user asked for.

    Args:
        model: ``--model_path``.
        others: ``--compare``.
        input_file: Questions; None takes the validation file of the run.
        output_file: None makes a name under the run, or under outputs/evaluations.
        columns: Names of columns of the input.
        limit: Only this many rows.
        reward: ``auto``, ``none``, a name, or ``FILE.py:NAME``.
        reward_kwargs: Parameters of the reward.
        fresh: Throw away what an interrupted evaluation left.
    """

    model: str
    others: Sequence[str] = ()
    input_file: Path | None = None
    output_file: Path | None = None
    columns: Columns = field(default_factory=Columns)
    limit: int | None = None
    reward: str = "auto"
    reward_kwargs: dict[str, Any] = field(default_factory=dict)
    fresh: bool = False


def run_batch(options: BatchOptions, settings: Settings, backend: Backend, console: Console) -> int:
    """Evaluate and write; returns the exit status.

    Raises:
        EvaluationError: If something is wrong that the user can put right; before anything is generated, but for a
            model that cannot be loaded.
    """
    settings.check()
    backend.check()
    sources = find_sources(options.model, options.others, backend)
    file = options.input_file or _validation_file(sources[0], options.model)
    output = check_output(options.output_file or free_name(sources[0], file.name.split(".")[0]))
    questions = read_questions(file, options.columns, options.limit)
    rewards = choose(questions, options.reward, options.reward_kwargs, sources[0].run_dir, file)
    _announce(console, file, questions, rewards, output)
    try_rewards(questions, rewards)
    digest = f"{file_digest(file)} {options.columns}"
    job = Job(questions, rewards, settings, backend, digest, output.parent, console, options.fresh)
    candidates = [
        get_ready(source, name, settings, backend, console.print)
        for source, name in zip(sources, names_of(sources), strict=True)
    ]
    models, partials = [], []
    with contextlib.ExitStack() as stack:
        for candidate in candidates:
            results, partial = run_model(candidate, job)
            stack.callback(partial.close)
            models.append(results)
            partials.append(partial)
        report = Report(questions, models, settings.n, _facts(options, candidates, job, file), _notes(questions, file))
        _write(report, output, partials, console)
    return 0


def find_sources(model: str, others: Sequence[str], backend: Backend) -> list[ModelSource]:
    """The models that a user names, the tested one first.

    Raises:
        EvaluationError: If one is not there, or is named twice.
    """
    if backend.kind == "server":
        if others:
            raise EvaluationError("--compare: models that are compared are loaded here, not with --server")
        name = backend.server_model or model or "server"
        return [ModelSource(backend.server, name, backend.server)]
    sources = [find_model(given) for given in (model, *others)]
    places = [(source.path, source.adapter) for source in sources]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise EvaluationError(f"--compare {sources[number].given}: is the same model as another one that is given")
    return sources


def _validation_file(source: ModelSource, given: str) -> Path:
    """The validation data of a run, so that a run directory alone is enough."""
    if source.run_dir is not None:
        data = read_run(source.run_dir).get("data") or {}
        for path in [*(data.get("validation") or []), *(data.get("train") or [])]:
            if Path(path).is_file():
                return Path(path)
    hint = "; the run's own validation file is gone" if source.run_dir else ""
    raise EvaluationError(f"--batch needs --input_file with the questions for {given}{hint}")


def free_name(source: ModelSource, stem: str) -> Path:
    """A name that no file has yet: ``RUN/evaluation/val.xlsx``, ``val-2.xlsx``, ..."""
    folder = source.run_dir / "evaluation" if source.run_dir else OUTPUTS / "evaluations"
    if not source.run_dir or " " in source.name:  # of one step of a run
        name = re.sub(r"[^\w.-]+", "-", source.name.split("/")[-1])
        stem = f"{name}-{stem}"
    path, number = folder / f"{stem}.xlsx", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.xlsx"
    return path


def names_of(sources: Sequence[ModelSource]) -> list[str]:
    """Names that tell the models apart."""
    names: list[str] = []
    for source in sources:
        name = source.name if source.name not in names else source.given
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


def _announce(console: Console, file: Path, questions: Sequence[Question], rewards: Rewards, output: Path) -> None:
    bad = sum(question.problem is not None for question in questions)
    note = f", {bad:,} of them cannot be used" if bad else ""
    console.print(f"input   {escape(str(file))}: {len(questions):,} rows{note}")
    for line in problems(questions, file):
        console.print(f"        [yellow]{escape(line)}[/yellow]")
    for number, reason in enumerate(rewards.reasons):
        console.print(f"{'' if number else 'reward':<7} {escape(reason)}")
    console.print(f"output  {escape(str(output))}")


def try_rewards(questions: Sequence[Question], rewards: Rewards) -> None:
    """Try every reward on its first row; raises as ``Scorer.try_first``."""
    if any(rewards.specs):
        scorer = Scorer(questions, rewards.specs, lambda *_: None)
        try:
            scorer.try_first()
        finally:
            scorer.stop()


def _facts(options: BatchOptions, candidates: Sequence[Candidate], job: Job, file: Path) -> dict[str, Any]:
    settings = job.settings
    facts: dict[str, Any] = {"model": candidates[0].source.given, "model path": candidates[0].source.path}
    if candidates[0].source.adapter:
        facts["adapter"] = str(candidates[0].source.adapter)
    if len(candidates) > 1:
        facts["compared with"] = ", ".join(candidate.source.given for candidate in candidates[1:])
    facts |= {
        "input file": str(file.resolve()),
        "reward": job.rewards.labels or "none",
        **settings.facts(),
        "backend": job.backend.kind,
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    return facts


def _notes(questions: Sequence[Question], file: Path) -> list[str]:
    lines = problems(questions, file)
    return [f"{sum(q.problem is not None for q in questions):,} rows could not be used:", *lines] if lines else []


def _write(report: Report, output: Path, partials: Sequence[Partial], console: Console) -> None:
    try:
        written = write_report(report, output)
    except OSError as error:
        raise EvaluationError(
            f"--output_file {output}: cannot be written: {error}. All answers are kept in {output.parent}; make room "
            "or give another file in the same folder, and run the same command again: nothing is generated again"
        ) from error
    for partial in partials:
        partial.remove()
    show(report, console)
    console.print(f"\nwritten {escape(', '.join(map(str, written)))}")


def show(report: Report, console: Console) -> None:
    """Print the summary."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = ["model", "group", "rows"]
    first = report.summaries[0].overall
    if report.scored:
        names += ["scored", "accuracy" if report.binary else "value", "95% confidence"]
        names += [f"pass@{k}" for k in first.pass_at if k > 1]
        names += [f"majority of {report.n}"] if report.n > 1 else []
    for name in [*names, "tokens", "cut", "failed"]:
        table.add_column(name, justify="left" if name in ("model", "group") else "right", no_wrap=True)
    for model in report.summaries:
        groups = [
            (f"{column} {group.name}", group)
            for column, some in model.groups.items()
            if len(some) > 1
            for group in some
        ]
        for name, group in [("all", model.overall), *groups[:GROUPS_SHOWN]]:
            row = [escape(model.name), escape(name), f"{group.rows:,}"]
            if report.scored:
                digits = ".1%" if report.binary else ".4f"
                known = group.accuracy is not None
                row += [f"{group.scored:,}", format(group.accuracy, digits) if known else "-"]
                row += [f"{group.low:{digits}} to {group.high:{digits}}" if known else "-"]
                row += [f"{group.pass_at[k]:.1%}" if k in group.pass_at else "-" for k in first.pass_at if k > 1]
                row += [f"{group.majority:.1%}" if group.majority is not None else "-"] if report.n > 1 else []
            table.add_row(*row, f"{group.length:,.1f}", f"{group.cut:.0%}", f"{group.failed:,}")
    console.print()
    console.print(table)
    for one in report.comparisons if report.scored else ():
        console.print(
            f"\n{escape(one.model)} against {escape(one.other)}: {one.better:,} better, {one.worse:,} worse of "
            f"{one.pairs:,} pairs, difference {one.difference:+.1%}" + f", p = {one.p_value:.3g} ({one.test}): "
            f"[bold]{one.verdict}[/bold]"
        )
    failures = [result["error"] for model in report.models for result in model.scores.values() if "error" in result]
    if failures:
        console.print(f"[yellow]warning:[/yellow] {len(failures):,} answers have no score: {escape(failures[0])}")
    if first.cut > 0.1:
        console.print(
            f"[yellow]warning:[/yellow] {first.cut:.0%} of the answers ended at --max_new_tokens "
            f"{report.settings['max_new_tokens']}; raise it if they should have gone on"
        )
