"""Every set of a suite to every model: asked, scored, compared, written into one file."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.data.contamination import Contamination, SetOverlap
from common.data.contamination import show as show_overlap
from common.data.readers.records import read_records
from common.evaluation.batch import find_sources, free_name, names_of
from common.evaluation.model_path import ModelSource
from common.evaluation.questions import Question, problems
from common.evaluation.report.compare import row_value
from common.evaluation.report.outputs import check_output
from common.evaluation.report.report import Report
from common.evaluation.report.results import GroupScore, ModelResults
from common.evaluation.rewards import Rewards, Spec, builtin
from common.evaluation.run_model import Job, get_ready, run_model
from common.evaluation.scorer import Scorer
from common.evaluation.settings import Backend, EvaluationError, Settings
from common.evaluation.suites.catalog import Bench, choose
from common.evaluation.suites.load import Loaded, load
from common.evaluation.suites.published import PUBLISHED
from common.run_dir import read_run

OWN_REWARDS = ("humaneval", "ifeval")  # modules beside this one


@dataclass(frozen=True)
class SuiteOptions:
    """What the user asked for.

    Args:
        model: ``--model_path``.
        suite: Suites or sets, with commas.
        others: ``--compare``.
        data: Folder with local copies; None fetches.
        hub: Where from.
        output_file: None makes a name.
        limit: Rows of each set at most.
        given: Settings that the user gave; they hold for every set instead of its own.
        fresh: Throw away what an interrupted evaluation left.
    """

    model: str
    suite: str
    others: Sequence[str] = ()
    data: Path | None = None
    hub: str = "huggingface"
    output_file: Path | None = None
    limit: int | None = None
    given: dict[str, Any] = field(default_factory=dict)
    fresh: bool = False


@dataclass
class SetResult:
    """One set, done.

    Args:
        loaded: The set.
        settings: It was asked with.
        report: Scores and answers.
        overlap: With the run's training data; None where that is not known.
    """

    loaded: Loaded
    settings: Settings
    report: Report
    overlap: SetOverlap | None = None

    @property
    def clean_score(self) -> float | None:
        """Score of the tested model on the questions that its training data does not hold."""
        if self.overlap is None:
            return None
        rows = [q.row for q in self.loaded.questions if q.row not in self.overlap.held]
        values = [row_value(self.report.models[0], row, self.settings.n) for row in rows]
        known = [value for value in values if value is not None]
        return mean(known) if known else None

    @property
    def bench(self) -> Bench:
        """Which set."""
        return self.loaded.bench


def settings_of(bench: Bench, base: Settings, given: dict[str, Any]) -> Settings:
    """Settings of a set: those of its paper, with what the user gave on top.

    Raises:
        EvaluationError: If they do not go together.
    """
    settings = replace(base, **{**bench.settings, **given})
    if settings.greedy and "n" not in given:
        settings = replace(settings, n=1)  # greedy answers to one prompt are all the same
    return settings.check()


def run_suite(options: SuiteOptions, base: Settings, backend: Backend, console: Console) -> int:
    """Evaluate and write; returns the exit status.

    Raises:
        EvaluationError: If something is wrong that the user can put right; before anything is generated, but for a
            model that cannot be loaded.
    """
    benches = choose(options.suite)
    backend.check()
    sources = find_sources(options.model, options.others, backend)
    output = check_output(options.output_file or free_name(sources[0], options.suite.replace(",", "-")))
    if output.suffix.lower() != ".xlsx":
        raise EvaluationError(
            f"--output_file {output}: a suite goes into a workbook, .xlsx, with a .summary.json beside"
        )
    settings = [settings_of(bench, base, options.given) for bench in benches]
    sets = [load(bench, options.data, options.hub, options.limit) for bench in benches]
    rewards = [_rewards(loaded) for loaded in sets]
    _announce(sets, settings, output, console)
    for loaded, chosen in zip(sets, rewards, strict=True):
        _try(loaded, chosen)
    candidates = [
        get_ready(source, name, settings[0], backend, console.print)
        for source, name in zip(sources, names_of(sources), strict=True)
    ]
    overlaps = _overlaps(sources[0], sets, console)
    found: list[list[ModelResults]] = [[] for _ in sets]
    with ExitStack() as stack:
        partials = []
        for candidate in candidates:  # a model is loaded once and asked all sets
            candidate.keeps_engine = True
            stack.callback(candidate.close)
            for index, (loaded, one, chosen) in enumerate(zip(sets, settings, rewards, strict=True)):
                console.print(f"\n{escape(loaded.bench.title)}", style="bold")
                job = Job(loaded.questions, chosen, one, backend, loaded.digest, output.parent, console, options.fresh)
                results, partial = run_model(candidate, job)
                stack.callback(partial.close)
                partials.append(partial)
                found[index].append(results)
            candidate.close()
        results = [
            SetResult(
                loaded,
                one,
                Report(loaded.questions, models, one.n, _facts(loaded, one, backend), loaded.notes),
                overlaps.get(loaded.bench.name),
            )
            for loaded, one, models in zip(sets, settings, found, strict=True)
        ]
        write(results, output, console, f"All answers are kept in {output.parent}, none is generated again: ")
        for partial in partials:
            partial.remove()
    return 0


def _overlaps(source: ModelSource, sets: Sequence[Loaded], console: Console) -> dict[str, SetOverlap]:
    """Questions that stand in the data that a run was trained on; nothing where that is not known or gone."""
    data = (read_run(source.run_dir).get("data") or {}) if source.run_dir else {}
    files = [Path(file) for file in data.get("train") or () if Path(file).is_file()]
    if not files:
        return {}
    found = Contamination({loaded.bench.name: loaded.texts for loaded in sets})
    for file in files:
        for record in read_records(file):
            found.look(record.row, f"{file.name} {record.place}")
    console.print(f"training data of {source.name}: {', '.join(str(file) for file in files)}", markup=False)
    show_overlap(found, console)
    return found.overlaps


def _rewards(loaded: Loaded) -> Rewards:
    bench = loaded.bench
    if bench.reward in OWN_REWARDS:
        file = Path(__file__).with_name(f"{bench.reward}.py")
        spec = Spec(str(file), "compute_score", json.dumps(bench.reward_kwargs, sort_keys=True))
    else:
        spec = replace(builtin(bench.reward), parameters=json.dumps(bench.reward_kwargs, sort_keys=True))
    specs = [None if question.problem else _spec_of(question, spec) for question in loaded.questions]
    return Rewards(specs, [", ".join(dict.fromkeys(one.label for one in specs if one))])


def _spec_of(question: Question, spec: Spec) -> Spec:
    """A truth of brackets alone is compared exactly: normalized_match drops punctuation, ``) >`` would be ``] >``."""
    is_signs = isinstance(question.ground_truth, str) and not any(map(str.isalnum, question.ground_truth))
    return builtin("exact_match") if spec == builtin("normalized_match") and is_signs else spec


def _try(loaded: Loaded, rewards: Rewards) -> None:
    """See that the reward works before anything is generated."""
    scorer = Scorer(loaded.questions, rewards.specs, lambda *_: None)
    try:
        scorer.try_first()
    except EvaluationError as error:
        raise EvaluationError(f"--suite {loaded.bench.name}: {error}") from error
    finally:
        scorer.stop()


def _announce(sets: Sequence[Loaded], settings: Sequence[Settings], output: Path, console: Console) -> None:
    """The settings of each set, since they move scores."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("set", "rows", "answers", "temperature", "top_p", "longest", "metric", "licence", "from"):
        right = name in ("rows", "answers", "temperature", "top_p", "longest")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for loaded, one in zip(sets, settings, strict=True):
        bench = loaded.bench
        numbers = (f"{len(loaded.questions):,}", one.n, f"{one.temperature:g}", f"{one.top_p:g}", one.max_new_tokens)
        table.add_row(bench.name, *map(str, numbers), bench.metric, bench.licence, escape(loaded.came_from))
    console.print(table)
    for loaded in sets:
        for line in [*loaded.notes, *problems(loaded.questions, loaded.files[0])]:
            console.print(f"{loaded.bench.name}: [yellow]{escape(line)}[/yellow]")
    console.print(f"output  {escape(str(output))}")


def _facts(loaded: Loaded, settings: Settings, backend: Backend) -> dict[str, Any]:
    bench = loaded.bench
    return {
        "set": bench.title,
        "paper": bench.paper,
        "from": loaded.came_from,
        "licence": bench.licence,
        "sha256 of files and prompt": loaded.digest,
        "prompt": bench.prompt,
        "reward": bench.reward,
        "metric": bench.metric,
        "answers a prompt": settings.n,
        **settings.facts(),
        "backend": backend.kind,
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def write(results: Sequence[SetResult], output: Path, console: Console, kept: str = "") -> None:
    """Write the workbook and the summary beside it, both or neither, and print the scores.

    Args:
        results: The sets.
        output: The workbook.
        console: For the scores.
        kept: What is not lost when the disk is full.

    Raises:
        EvaluationError: If the disk is full.
    """
    from common.data.readers.files import replaced_when_complete
    from common.evaluation.suites.workbook import write_workbook

    summary = output.with_suffix(".summary.json")
    try:
        with replaced_when_complete(output, summary) as partials:
            write_workbook(results, partials[0])
            found = {
                result.bench.name: {
                    **result.report.as_dict(),
                    "contamination": _plain(result),
                    "published": [vars(one) for one in PUBLISHED.get(result.bench.name, ())],
                }
                for result in results
            }
            partials[1].write_text(json.dumps(found, ensure_ascii=False, indent=2, default=str), encoding="utf-8")
    except OSError as error:
        raise EvaluationError(
            f"--output_file {output}: cannot be written: {error}. {kept}make room and run the same command again"
        ) from error
    show(results, console)
    console.print(f"\nwritten {escape(str(output))}, {escape(str(summary))}")


def _plain(result: SetResult) -> dict[str, Any] | None:
    """The overlap with training data, for programs."""
    one = result.overlap
    if one is None:
        return None
    held = {str(result.loaded.questions[number].id): share for number, (share, _) in one.held.items()}
    counts = {"questions": one.questions, "touched": len(one.touched), "too_short": one.short}
    return {**counts, "held": held, "score_without_them": result.clean_score}


def show(results: Sequence[SetResult], console: Console) -> None:
    """Print the scores."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("set", "model", "score", "95% confidence", "majority", "rows", "tokens", "cut", "failed"):
        table.add_column(name, justify="left" if name in ("set", "model") else "right", no_wrap=True)
    for result in results:
        for summary in result.report.summaries:
            table.add_row(result.bench.name, escape(summary.name), *_cells(summary.overall))
    console.print()
    console.print(table)
    for result in results:
        for one in result.report.comparisons:
            console.print(
                f"{result.bench.name}: {escape(one.model)} against {escape(one.other)}: {one.difference:+.1%}, "
                f"p = {one.p_value:.3g} ({one.test}): [bold]{one.verdict}[/bold]"
            )
        first = result.report.summaries[0].overall
        if first.cut > 0.1:
            console.print(
                f"[yellow]warning:[/yellow] {result.bench.name}: {first.cut:.0%} of the answers ended at "
                f"--max_new_tokens {result.settings.max_new_tokens}"
            )


def _cells(group: GroupScore) -> list[str]:
    known = group.accuracy is not None
    return [
        f"{group.accuracy:.1%}" if known else "-",
        f"{group.low:.1%} to {group.high:.1%}" if known else "-",
        f"{group.majority:.1%}" if group.majority is not None else "-",
        f"{group.rows:,}",
        f"{group.length:,.1f}",
        f"{group.cut:.0%}",
        f"{group.failed:,}",
    ]
