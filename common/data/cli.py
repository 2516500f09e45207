"""The command line of ``python -m common.data_utils``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import __version__
from common.data.catalog import KNOWN, prepare
from common.data.conversation import THINKING
from common.data.convert import BadRows, Options, Source, convert
from common.data.difficulty import Asked, sort_by_difficulty
from common.data.hub import HUBS, download_model
from common.data.inputs import columns_of, sources_of
from common.data.names import PARTS
from common.data.readers.files import DataError
from common.data.rows import ALGORITHMS
from common.data.tasks import PREFIX, prepare_task

if TYPE_CHECKING:
    from rich.console import Console

# Names with commas, and a folder with local copies or None -> questions of each set.
BenchmarkTexts = Callable[[str, Path | None], dict[str, list[str]]]
SharesOf = Callable[[Asked, Any], Any]
HARVESTED = ("sft", "dpo", "kto")
EXAMPLES = """examples:
  convert data.json train.parquet                          what the data can be used for is detected
  convert gsm8k.jsonl train.parquet --algo grpo --val-ratio 0.05 --dedup
  convert a.xlsx b.csv train.parquet --input 问题 --output 答案
  convert pairs.csv train.parquet --algo dpo --map prompt=title+text --map chosen=better --map rejected=worse
  convert --mapping sources.yaml train.parquet             every input with its own columns
  validate train.parquet --algo sft --model Qwen/Qwen3-0.6B --against val.parquet
  validate train.parquet --algo grpo --contamination math,code    questions of benchmarks in the training data
  preview data.jsonl --algo sft --model demo -n 2
  stats data.jsonl
  prepare gsm8k --to data/gsm8k                            known: {known}
  prepare reasoning-gym:countdown --to data/countdown --size 5000 --seed 1
  harvest outputs/RUN best.parquet --min-score 1           an RL run's right answers for sft
  difficulty train.parquet sorted.parquet --model outputs/RUN --samples 8
  download Qwen/Qwen3-0.6B --to models/Qwen3-0.6B
"""


def main(
    argv: Sequence[str] | None = None,
    benchmark_texts: BenchmarkTexts | None = None,
    shares_of: SharesOf | None = None,
) -> int:
    """Run one command; returns the exit status: 0 good, 1 bad rows, 2 cannot be done.

    Args:
        argv: The words behind the command's name.
        benchmark_texts: Gives the questions of benchmarks by name; they are known above this package.
        shares_of: Answers and scores rows, for ``difficulty``; from above too.
    """
    from common.console import SafeConsole

    arguments = parser().parse_args(argv)
    arguments.benchmark_texts, arguments.shares_of = benchmark_texts, shares_of
    console = SafeConsole(soft_wrap=False, highlight=False)
    errors = SafeConsole(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        return arguments.run(arguments, console)
    except BadRows as error:
        error.report.show(console)
        errors.print(f"error: {str(error).split('; the first')[0]}. Fix them, or add --skip-bad to write the others")
        return 1
    except (DataError, OSError) as error:
        errors.print(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        errors.print("stopped; nothing was written")
        return 130


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    made = argparse.ArgumentParser(
        prog="python -m common.data_utils",
        description="Data of any common form becomes what verl's trainers read, with a report on every row.",
        epilog=EXAMPLES.format(known=", ".join(KNOWN)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=__version__)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_convert(commands)
    _add_validate(commands)
    _add_preview(commands)
    _add_stats(commands)
    _add_prepare(commands)
    _add_harvest(commands)
    _add_difficulty(commands)
    _add_download(commands)
    return made


def _file_options(one: argparse.ArgumentParser, several: bool = False) -> None:
    action = "append" if several else "store"
    each = "; once for all inputs, or once for each" if several else ""
    one.add_argument("--input", action=action, metavar="COLUMN", help=f"column with the user's text or messages{each}")
    one.add_argument("--output", action=action, metavar="COLUMN", help=f"column with the assistant's text{each}")
    one.add_argument("--system-column", action=action, metavar="COLUMN", help="column with the system prompt")
    one.add_argument("--system", action=action, metavar="TEXT", help="system prompt for rows that have none")
    one.add_argument("--data-source", action=action, metavar="NAME", help="name of the data set (default: the file's)")
    one.add_argument(
        "--map",
        action="append",
        metavar="PART=COLUMN",
        help=f"column of any part, several joined with +, e.g. prompt=title+text; repeat it. Parts: {', '.join(PARTS)}",
    )
    one.add_argument(
        "--no-header", action="store_true", help="the first row of a table is a row; columns are column1 ..."
    )
    one.add_argument("--sheet", metavar="NAME", help="sheet of an xlsx file, by name or number (default: the first)")
    one.add_argument(
        "--allow-loss", action="store_true", help="leave out known columns that the rows have no place for"
    )
    one.add_argument("--encoding", action=action, metavar="NAME", help="of text files that are not UTF-8, e.g. gb18030")


def _add_convert(commands: Any) -> None:
    one = commands.add_parser("convert", help="any common form -> the parquet file that a trainer reads")
    one.add_argument(
        "files",
        nargs="+",
        metavar="IN... OUT",
        help="json, jsonl, csv, tsv, parquet, xlsx, gz of these, or org/name; then the parquet file to write",
    )
    one.add_argument("--algo", choices=ALGORITHMS, help="what it is for (default: detected from the first row)")
    _file_options(one, several=True)
    one.add_argument(
        "--answer-pattern",
        action="append",
        metavar="REGEX",
        help="group 1 is the final answer (default: what follows ####, else the last \\boxed{}, else all)",
    )
    one.add_argument(
        "--mapping", type=Path, metavar="YAML", help="list of inputs with path, input, output, system, data_source, ..."
    )
    one.add_argument(
        "--val-ratio",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the rows for validation; equal prompts stay together",
    )
    one.add_argument(
        "--val-output", type=Path, metavar="FILE", help="where they go (default: val.parquet next to train.parquet)"
    )
    one.add_argument("--seed", type=int, default=0, help="chooses the rows for validation")
    one.add_argument("--dedup", action="store_true", help="leave out repeated rows (for RL: repeated prompts)")
    one.add_argument("--max-rows", type=int, metavar="N", help="rows to write at most")
    one.add_argument("--skip-bad", action="store_true", help="write the good rows, and the bad ones to OUT.bad.jsonl")
    one.add_argument("--self-play", action="store_true", help="gspo: the model answers the prompts of pairs too")
    one.add_argument("--split", default="train", help="of a data set from a hub (default: train)")
    one.add_argument("--hub", choices=HUBS, default=HUBS[0], help="where org/name is looked up")
    one.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace, console: Console) -> int:
    *inputs, target = arguments.files
    sources = sources_of(arguments, inputs)
    options = Options(
        arguments.algo,
        arguments.val_ratio,
        arguments.val_output,
        arguments.seed,
        arguments.dedup,
        arguments.max_rows,
        arguments.skip_bad,
        arguments.allow_loss,
        arguments.self_play,
    )
    with _progress() as progress:
        report = convert(sources, Path(target), options, progress)
    report.show(console)
    return 0


class _progress:
    """A line with the number of rows so far, on a terminal only."""

    def __enter__(self) -> Any:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from common.console import SafeConsole

        console = SafeConsole(stderr=True)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.completed:,.0f} rows, {task.speed:,.0f} a second"),
            TimeElapsedColumn(),
        )
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.bar.start()
        task = self.bar.add_task("rows", total=None)
        return lambda rows: self.bar.update(task, completed=rows)

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()


def _source(arguments: argparse.Namespace) -> Source:
    columns = columns_of(arguments, arguments.input, arguments.output, arguments.system_column)
    return Source(
        arguments.file,
        columns,
        arguments.data_source,
        arguments.system or "",
        None,
        arguments.encoding,
        not arguments.no_header,
        arguments.sheet,
    )


def _add_validate(commands: Any) -> None:
    one = commands.add_parser("validate", help="every bad row with its place, field and reason; token lengths")
    one.add_argument("file", type=Path)
    one.add_argument("--algo", choices=ALGORITHMS, required=True)
    one.add_argument(
        "--model", help="folder or id: rows that its chat template cannot show, lengths (demo: the built-in one)"
    )
    one.add_argument("--thinking", choices=THINKING, default="auto", help="as the knob THINKING (default: auto)")
    one.add_argument(
        "--against", type=Path, metavar="FILE", help="rows whose prompt is there too are bad (train against val)"
    )
    one.add_argument(
        "--contamination",
        metavar="SETS",
        help="rows that hold a question of these benchmarks are bad: math, gsm8k, ... as test.sh --suite",
    )
    one.add_argument("--suite-data", type=Path, metavar="DIR", help="--contamination: local copies, as test.sh --data")
    one.add_argument("--limit", type=int, metavar="TOKENS", help="shows how many rows are longer")
    one.add_argument(
        "--sample", type=int, default=20_000, metavar="N", help="rows to measure at most (default: 20,000)"
    )
    one.add_argument(
        "--fix", action="store_true", help="writes FILE.good.parquet without bad and repeated rows, and FILE.bad.jsonl"
    )
    _file_options(one)
    one.set_defaults(run=_validate)


def _validate(arguments: argparse.Namespace, console: Console) -> int:
    from common.data.contamination import Contamination
    from common.data.contamination import show as show_overlap
    from common.data.conversation import Renderer, thinking_of
    from common.data.lengths import load_tokenizer, measure, show
    from common.data.readers.files import kind_of
    from common.data.validate import validate, write_good

    source = _source(arguments)
    tokenizer = load_tokenizer(arguments.model) if arguments.model else None
    renderer = Renderer.of(tokenizer, thinking_of(arguments.thinking)) if tokenizer else None
    overlap = None
    if arguments.contamination:
        overlap = Contamination(arguments.benchmark_texts(arguments.contamination, arguments.suite_data))
    elif arguments.suite_data:
        raise DataError("--suite-data is for --contamination; add it, e.g. --contamination gsm8k")
    found = validate(
        source, arguments.algo, arguments.against, arguments.sample, arguments.allow_loss, renderer, overlap
    )
    report = found.report
    if arguments.fix and kind_of(source.path)[0] == ".parquet":
        write_good(source.path, found.refused, report)
    elif arguments.fix:
        if (arguments.against or arguments.model or overlap) and found.report.rows_bad:
            raise DataError("--fix with --against, --model or --contamination works on parquet files; convert first")
        target = source.path.with_name(f"{source.path.name.split('.')[0]}.good.parquet")
        report = convert(
            [source], target, Options(arguments.algo, dedup=True, skip_bad=True, allow_loss=arguments.allow_loss)
        )
    report.show(console)
    if overlap:
        show_overlap(overlap, console)
    if renderer and found.sample:
        for lengths in measure(renderer, tokenizer, arguments.algo, found.sample):
            show(console, lengths, arguments.limit)
    if report.rows_bad and not arguments.fix:
        return 1
    if not report.rows_bad:
        console.print("[green]all rows can be used[/green]")
    return 0


def _add_preview(commands: Any) -> None:
    one = commands.add_parser("preview", help="rows as the model will see them, what is learnt marked")
    one.add_argument("file", type=Path)
    one.add_argument("--algo", choices=ALGORITHMS, required=True)
    one.add_argument("--model", default="demo", help="folder or id whose chat template is used (default: demo)")
    one.add_argument("--thinking", choices=THINKING, default="auto", help="as the knob THINKING (default: auto)")
    one.add_argument("-n", type=int, default=3, help="rows (default: 3)")
    one.add_argument("--chars", type=int, default=4000, help="characters of each row (default: 4000)")
    _file_options(one)
    one.set_defaults(run=_preview)


def _preview(arguments: argparse.Namespace, console: Console) -> int:
    from common.data.conversation import Renderer, thinking_of
    from common.data.lengths import load_tokenizer
    from common.data.preview import preview

    tokenizer = load_tokenizer(arguments.model)
    renderer = Renderer.of(tokenizer, thinking_of(arguments.thinking))
    preview(console, _source(arguments), arguments.algo, tokenizer, renderer, arguments.n, arguments.chars)
    return 0


def _add_stats(commands: Any) -> None:
    one = commands.add_parser("stats", help="rows, columns, lengths, roles, data sources")
    one.add_argument("file", type=Path)
    one.add_argument("--encoding", help="of a text file that is not UTF-8")
    one.set_defaults(run=_stats)


def _stats(arguments: argparse.Namespace, console: Console) -> int:
    from common.data.preview import stats

    stats(console, Source(arguments.file, encoding=arguments.encoding))
    return 0


def _add_prepare(commands: Any) -> None:
    one = commands.add_parser("prepare", help="a well-known data set -> train.parquet and val.parquet")
    one.add_argument("name", metavar="NAME", help=f"{', '.join(KNOWN)}, or {PREFIX}TASK for a generated task")
    one.add_argument("--to", type=Path, required=True, metavar="DIR")
    one.add_argument("--algo", choices=ALGORITHMS, help="what it is for (default: what it is usually used for)")
    one.add_argument("--from", dest="folder", type=Path, metavar="DIR", help="a local copy instead of a download")
    one.add_argument("--hub", choices=HUBS, default=HUBS[0])
    one.add_argument("--max-rows", type=int, metavar="N", help="rows of each file at most")
    one.add_argument("--skip-bad", action="store_true", help="write the good rows, and the bad ones to another file")
    one.add_argument("--size", type=int, default=5000, metavar="N", help="rows of a generated task (default: 5000)")
    one.add_argument("--seed", type=int, default=1, metavar="N", help="of a generated task")
    one.add_argument("--config", type=json.loads, default={}, metavar="JSON", help="settings of a generated task")
    one.set_defaults(run=_prepare)


def _prepare(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.name.startswith(PREFIX):
        made = arguments.name, arguments.to, arguments.size, arguments.seed, arguments.config, arguments.algo
        for report in prepare_task(*made):
            report.show(console)
        reward = "REWARD_FUNC_PATH=common/reward_functions.py REWARD_FUNC_NAME=reasoning_gym ./grpo/train.sh"
        script = "./sft/train.sh" if arguments.algo == "sft" else reward
        console.print(f"train with: TRAIN_DATA={arguments.to}/train.parquet {script}", markup=False)
        return 0
    reports = prepare(
        arguments.name,
        arguments.to,
        arguments.algo,
        arguments.folder,
        arguments.hub,
        arguments.max_rows,
        arguments.skip_bad,
    )
    for report in reports:
        report.show(console)
    return 0


def _add_harvest(commands: Any) -> None:
    one = commands.add_parser("harvest", help="good answers of an RL run -> rows for sft, dpo or kto")
    one.add_argument("run_dir", type=Path, metavar="RUN", help="outputs/NAME of grpo, ppo or gspo")
    one.add_argument("target", type=Path, metavar="OUT.parquet")
    one.add_argument(
        "--min-score", type=float, required=True, metavar="S", help="an answer of this score is a good one"
    )
    one.add_argument("--algo", choices=HARVESTED, default="sft", help="sft: good answers; dpo: pairs; kto: labels")
    one.add_argument("--margin", type=float, default=0.5, metavar="M", help="dpo: least difference of the scores")
    one.add_argument("--best", type=int, default=1, metavar="N", help="sft: answers of a prompt at most (default: 1)")
    one.add_argument("--from-step", type=int, default=0, metavar="K", help="leave out the steps before")
    one.add_argument("--val-ratio", type=float, default=0.0, metavar="R", help="share of the prompts for validation")
    one.set_defaults(run=_harvest)


def _harvest(arguments: argparse.Namespace, console: Console) -> int:
    from common.data.harvest import Wanted, harvest

    if arguments.margin <= 0 or arguments.best < 1:
        raise DataError(f"--margin {arguments.margin:g} --best {arguments.best}: must be above 0")
    steps = range(arguments.from_step, sys.maxsize)
    wanted = Wanted(arguments.algo, arguments.min_score, arguments.margin, arguments.best, steps)
    report, lost = harvest(arguments.run_dir, arguments.target, wanted, arguments.val_ratio)
    report.show(console)
    for why, count in lost.most_common():
        console.print(f"{count:,} {why}", markup=False)
    return 0


def _add_difficulty(commands: Any) -> None:
    one = commands.add_parser("difficulty", help="rows that a model sometimes answers right, the easiest first")
    one.add_argument("file", type=Path, metavar="IN")
    one.add_argument("target", type=Path, metavar="OUT.parquet")
    _file_options(one)
    one.add_argument("--model", default="", metavar="M", help="run, checkpoint, folder or id, or demo: it answers")
    one.add_argument("--samples", type=int, default=8, metavar="N", help="answers to each row (default: 8)")
    one.add_argument("--reward", default="auto", metavar="R", help="as test.sh --reward (default: auto)")
    one.add_argument("--min-score", type=float, default=1.0, metavar="S", help="an answer is right from here (1)")
    one.add_argument(
        "--keep", type=float, nargs=2, metavar=("LOW", "HIGH"), help="shares that stay (default: above 0 and below 1)"
    )
    one.add_argument("--temperature", type=float, default=1.0, metavar="T", help="of sampling (default: 1)")
    one.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="longest answer (default: 512)")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="of sampling")
    one.add_argument("--engine", choices=("transformers", "vllm", "sglang"), default="transformers")
    one.add_argument("--server", default="", metavar="URL", help="an OpenAI-compatible server in its place")
    one.set_defaults(run=_difficulty)


def _difficulty(arguments: argparse.Namespace, console: Console) -> int:
    if not arguments.model and not arguments.server:
        raise DataError("--model is missing; give a run (outputs/NAME), a model folder or id, or demo")
    names = ("model", "samples", "reward", "min_score", "temperature", "max_new_tokens", "seed", "engine", "server")
    asked = Asked(**{name: getattr(arguments, name) for name in names})
    keep = tuple(arguments.keep) if arguments.keep else None
    measure = partial(arguments.shares_of, console=console)
    found = sort_by_difficulty(_source(arguments), arguments.target, asked, measure, keep)
    found.report.show(console)
    console.print("\nright answers   rows", markup=False)
    for tenth in sorted(found.shares):
        label = "100%" if tenth == 10 else f"{10 * tenth}% to {10 * tenth + 9}%"
        console.print(f"{label:<12} {found.shares[tenth]:>7,}", markup=False)
    for why, count in found.left_out.most_common():
        console.print(f"left out: {count:,}, {why}", markup=False)
    words = f"TRAIN_DATA={arguments.target} DATA_ORDER=difficulty ./grpo/train.sh"
    console.print(f"train with: {words}", markup=False)
    return 0


def _add_download(commands: Any) -> None:
    one = commands.add_parser("download", help="a model from a hub into a folder; resumes where it stopped")
    one.add_argument("model", metavar="ORG/NAME")
    one.add_argument("--to", type=Path, required=True, metavar="DIR")
    one.add_argument("--hub", choices=HUBS, default=HUBS[0])
    one.add_argument("--revision", help="branch, tag or commit")
    one.set_defaults(run=_download)


def _download(arguments: argparse.Namespace, console: Console) -> int:
    folder = download_model(arguments.model, arguments.to, arguments.hub, arguments.revision)
    console.print(f"[green]{folder}[/green]; use it with MODEL_PATH={folder}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
