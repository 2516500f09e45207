"""The command line of ``python -m common.checkpoints``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import __version__
from common.checkpoints import integrity, prune
from common.checkpoints.export import FORMATS, OUT_TYPES
from common.checkpoints.hub_upload import HUBS
from common.checkpoints.layout import Checkpoint, checkpoint_at, checkpoints_of
from common.checkpoints.merge import DTYPES, is_current, merge
from common.checkpoints.mixing import METHODS, WITH_BASE, Recipe
from common.checkpoints.selected import select
from common.console import write_error
from common.demo_model import DEMO_MODEL_DIR
from common.run_dir import is_alive, read_run

EXAMPLES = """examples:
  list outputs/grpo-demo-1120-142302
  merge outputs/RUN                               its newest complete checkpoint to outputs/RUN/model
  merge outputs/RUN/checkpoints/global_step_100 --to my-model --dtype float32
  average outputs/RUN --last 3                    the mean of the newest three to outputs/RUN/model_average
  average outputs/A outputs/B --weights 0.7 0.3 --to soup
  average outputs/A outputs/B --method ties --base Qwen3-4B --to both    what each has learned, added to the base
  prune outputs/RUN --keep 1 --keep-best val_score
  export outputs/RUN --format ollama --outtype q8_0
  select outputs/RUN --step 40                    test.sh takes it from now on; --best val_score, --none
  publish outputs/RUN user/name                   with a model card, for you alone until you say --public
  verify outputs/RUN                              reads every byte
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 good, 1 something is wrong with a checkpoint, 2 cannot be done."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run_command(arguments)
    except (ValueError, OSError) as error:
        write_error(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was changed", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    made = argparse.ArgumentParser(
        prog="python -m common.checkpoints",
        description="Checkpoints of a run: list, merge, average, export, publish, prune, select, verify.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=__version__)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _command(commands, "list", "every checkpoint: step, size, complete or not", list_command, "--json")

    one = _command(commands, "merge", "a plain Hugging Face folder, proved by loading it", merge_command)
    one.add_argument("--to", type=Path, help="where the model goes (default: RUN/model, or RUN/model_step_N)")
    one.add_argument("--role", default="actor", choices=("actor", "critic"))
    one.add_argument("--dtype", default="bfloat16", choices=DTYPES, help="of the weights (default: bfloat16)")
    one.add_argument("--no-proof", action="store_true", help="do not load the result and generate from it")

    one = _command(commands, "average", "several models mixed into one", average_command, paths="+")
    one.add_argument("--last", type=int, metavar="K", help="of one run: its newest K checkpoints (default: all)")
    one.add_argument("--weights", type=float, nargs="+", help="one a model, in their order (default: uniform)")
    one.add_argument("--method", default="mean", choices=METHODS, help="how (default: mean); docs/checkpoints.md")
    one.add_argument("--base", type=Path, help="ties, dare: folder of the model that they all started from")
    one.add_argument("--density", type=float, metavar="D", help="ties, dare: share of changes that is kept (0.5)")
    one.add_argument("--scale", type=float, metavar="S", help="ties, dare: factor of the mixed change (1)")
    one.add_argument("--seed", type=int, metavar="N", help="dare: which changes are dropped (0)")
    one.add_argument("--to", type=Path, help="where the model goes (default: RUN/model_average)")
    one.add_argument("--dtype", default="bfloat16", choices=DTYPES, help="of the weights (default: bfloat16)")

    one = _command(commands, "prune", "remove old checkpoints", prune_command)
    one.add_argument("--keep", type=int, default=1, help="newest complete ones that stay (default: 1)")
    one.add_argument("--keep-steps", type=int, nargs="+", default=[], metavar="N", help="steps that stay too")
    one.add_argument("--keep-best", metavar="METRIC", help="the best one by a metric stays too, e.g. val_score")
    one.add_argument("--incomplete", action="store_true", help="also those that were not written to their end")
    one.add_argument("--yes", action="store_true", help="do not ask")

    one = _command(commands, "export", "a model for other programs", export_command)
    one.add_argument(
        "--format", required=True, choices=FORMATS, help="gguf, ollama: llama.cpp's converter; awq: llm-compressor"
    )
    one.add_argument("--to", type=Path, help="folder to write (default: RUN/FORMAT)")
    one.add_argument("--outtype", choices=OUT_TYPES, help="gguf, ollama: of the weights (default: f16)")
    one.add_argument("--calibration", type=Path, metavar="FILE", help="awq: texts to look at (default: the run's data)")

    one = _command(commands, "select", "choose the one that test.sh takes; it is not pruned", select_command)
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("--step", type=int, metavar="N", help="its step")
    which.add_argument("--best", metavar="METRIC", help="the best one by a metric, e.g. val_score")
    which.add_argument("--none", action="store_true", help="the newest again")

    one = _command(commands, "publish", "the model and its card to Hugging Face or ModelScope", publish_command)
    one.add_argument("repo", metavar="USER/NAME", help="repository; made where it is not there, for you alone")
    one.add_argument("--hub", default="huggingface", choices=HUBS, help="default: huggingface")
    one.add_argument("--lora", action="store_true", help="the adapter alone (default: the whole model)")
    one.add_argument("--public", action="store_true", help="everybody can read it")
    one.add_argument(
        "--base", default="", metavar="ID", help="base model on the hub, where the run has it from a folder"
    )
    one.add_argument("--licence", default="", help="of the base model, where its README.md does not say it")
    one.add_argument("--dry-run", action="store_true", help="make the folder with the card and upload nothing")

    _command(commands, "verify", "read every byte and say what is torn or missing", verify_command, "--json")
    return made


def _command(commands: Any, name: str, help_text: str, run: Any, *flags: str, paths: str = "") -> Any:
    one = commands.add_parser(name, help=help_text, description=help_text)
    words = "a run directory, or a global_step_N folder"
    if paths:
        one.add_argument("paths", type=Path, nargs=paths, metavar="PATH", help=f"{words}, or a Hugging Face folder")
    else:
        one.add_argument("path", type=Path, metavar="RUN", help=words)
    for flag in flags:
        one.add_argument(flag, action="store_true", help="for programs")
    one.set_defaults(run_command=run)
    return one


def found(path: Path) -> list[Checkpoint]:
    """The checkpoints that a path names: those of a run, or the one that it is.

    Raises:
        FileNotFoundError: If there are none.
    """
    path = path.expanduser()
    one = checkpoint_at(path) if path.is_dir() else None
    checkpoints = [one] if one else checkpoints_of(path)
    if not checkpoints:
        raise FileNotFoundError(f"{path}: no global_step_N folder in it; give a run directory, e.g. outputs/RUN")
    return checkpoints


def gibibytes(size: int) -> str:
    """A size in words."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def list_command(arguments: argparse.Namespace) -> int:
    """Print a table of the checkpoints."""
    return _show(found(arguments.path), arguments.json, deep=False)


def verify_command(arguments: argparse.Namespace) -> int:
    """Read all files; exit status 1 when one is torn or missing."""
    return _show(found(arguments.path), arguments.json, deep=True)


def _show(checkpoints: list[Checkpoint], as_json: bool, deep: bool) -> int:
    rows = [_row(checkpoint, deep) for checkpoint in checkpoints]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
    else:
        _table(rows, deep)
    return int(deep and any(row["problems"] for row in rows))


def _row(checkpoint: Checkpoint, deep: bool) -> dict[str, Any]:
    marker = integrity.read_marker(checkpoint) or {}
    actor = checkpoint.roles.get("actor")
    return {
        "step": checkpoint.step,
        "path": str(checkpoint.path),
        "processes": checkpoint.world_size,
        "layout": "SFT, DPO" if checkpoint.is_supervised else "RL" + (" with critic" * ("critic" in checkpoint.roles)),
        "lora": bool(actor and (actor / "lora_train_meta.json").is_file()),
        "bytes": checkpoint.bytes,
        "written": marker.get("written"),
        "merged": is_current(checkpoint, checkpoint.run_dir / "model"),
        "problems": integrity.problems(checkpoint, deep),
    }


def _table(rows: list[dict[str, Any]], deep: bool) -> None:
    from rich.table import Table

    from common.console import SafeConsole

    table = Table(box=None, header_style="bold")
    for name in ("step", "processes", "layout", "size", "written", "state"):
        table.add_column(name, justify="right" if name in ("step", "processes", "size") else "left", overflow="fold")
    for row in rows:
        state = "NOT COMPLETE" if row["problems"] else "every byte read, whole" if deep else "complete"
        state += ", merged in model/" if row["merged"] else ""
        layout = row["layout"] + (", LoRA" if row["lora"] else "")
        cells = (row["step"], row["processes"] or "?", layout, gibibytes(row["bytes"]), row["written"] or "", state)
        table.add_row(*map(str, cells), style="red" if row["problems"] else "")
    console = SafeConsole(soft_wrap=True, highlight=False)
    console.print(table, soft_wrap=False)
    for row in rows:
        for problem in row["problems"]:
            console.print(f"step {row['step']}: {problem}", style="red", markup=False)


def merge_command(arguments: argparse.Namespace) -> int:
    """Merge one checkpoint: the one that is named, or the newest complete one of a run."""
    checkpoints = found(arguments.path)
    named = checkpoint_at(arguments.path)
    choice = integrity.Choice(named) if named else integrity.newest_complete(arguments.path)
    for reason in choice.skipped:
        write_error(f"note: {reason}")
    if choice.checkpoint is None:
        raise FileNotFoundError(f"{arguments.path}: none of its {len(checkpoints)} checkpoints is complete")
    checkpoint = choice.checkpoint
    suffix = "" if arguments.role == "actor" else f"_{arguments.role}"
    name = f"model{suffix}_step_{checkpoint.step}" if named else f"model{suffix}"
    target = arguments.to or checkpoint.run_dir / name
    facts = merge(checkpoint, target, arguments.dtype, arguments.role, prove=not arguments.no_proof)
    adapter = f", LoRA of rank {facts['lora_rank']} folded in" if facts["lora_rank"] else ""
    print(f"{target}: step {facts['step']}, {facts['dtype']}, from {facts['world_size']} process(es){adapter}")
    if "proof" in facts:
        print(f"loaded again and generated: {facts['proof']!r}")
    return 0


def average_command(arguments: argparse.Namespace) -> int:
    """Average the checkpoints of one run, or several models."""
    from common.checkpoints.average import average

    sources, target = [], arguments.to
    for path in arguments.paths:
        is_model = (path / "config.json").is_file()
        checkpoints = [] if is_model else found(path)
        named = checkpoint_at(path) is not None
        whole = [checkpoint for checkpoint in checkpoints if named or not integrity.problems(checkpoint)]
        alone = len(arguments.paths) == 1
        sources += [path] if is_model else [c.path for c in whole[-(arguments.last or (0 if alone else 1)) :]]
        target = target or (checkpoints[0].run_dir / "model_average" if alone and checkpoints else None)
    if target is None:
        raise ValueError("--to is missing: where shall the average of several runs go?")
    recipe = _recipe(arguments)
    base = base_of(arguments.base, arguments.paths[0]) if arguments.method in WITH_BASE else arguments.base
    facts = average(sources, target, arguments.weights, arguments.dtype, recipe, base)
    if "base" in facts:
        print(f"{facts['method']} over {facts['base']}, density {facts['density']:g}, scale {facts['scale']:g}")
    for source, weight in zip(facts["averaged"], facts["weights"], strict=True):
        print(f"  {weight:.3f}  {source}")
    print(f"{target}: loaded again and generated: {facts['proof']!r}")
    return 0


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """The method with its values; one that the method does not read is refused."""
    readers = {"density": WITH_BASE, "scale": WITH_BASE, "seed": ("dare", "dare_ties")}
    values = {name: getattr(arguments, name) for name in readers if getattr(arguments, name) is not None}
    for name in values:
        if arguments.method not in readers[name]:
            raise ValueError(f"--{name}: --method {arguments.method} has none; it is for {', '.join(readers[name])}")
    return Recipe(arguments.method, **values)


def base_of(given: Path | None, source: Path) -> Path:
    """The model that runs started from: the one that is named, or what run.json of a run names.

    Returns:
        A Hugging Face folder or a ``global_step_N`` folder.

    Raises:
        ValueError: If neither names one, or it is not a folder on this machine.
    """
    named = checkpoint_at(source)
    path = given or Path(read_run(named.run_dir if named else source).get("model") or "")
    if path == Path():
        raise ValueError(
            f"--base is missing: the model that they all started from; {source} has no run.json to name it"
        )
    if path == Path("demo"):
        return DEMO_MODEL_DIR
    if not path.is_dir():
        raise ValueError(f"--base {path}: no such folder; download it first (hf download {path} --local-dir FOLDER)")
    return path if (path / "config.json").is_file() else found(path)[-1].path


def export_command(arguments: argparse.Namespace) -> int:
    """Write a model for another program."""
    from common.checkpoints.export import export

    converted = arguments.format in ("gguf", "ollama")
    if arguments.outtype and not converted:
        raise ValueError(f"--outtype is for gguf and ollama; {arguments.format} has a type of its own")
    if arguments.calibration and arguments.format != "awq":
        raise ValueError(f"--calibration is for awq; {arguments.format} looks at no texts")
    path = arguments.path.expanduser()
    named = checkpoint_at(path) if path.is_dir() else None
    target = arguments.to or (named.run_dir if named else path) / arguments.format
    texts = None
    if arguments.format == "awq":
        from common.checkpoints.awq import calibration_file

        texts = calibration_file(path, named.run_dir if named else path, arguments.calibration)
    facts = export(path, arguments.format, target, arguments.outtype or "f16", texts=texts)
    size = f", {gibibytes(facts['bytes'])} of {facts['out_type']}" if converted else ""
    print(f"{target}: {arguments.format}{size}")
    if "template" in facts:
        print(facts["template"])
        print(f"ollama create NAME -f {target / 'Modelfile'}")
    if arguments.format == "mlx-ready":
        print(f"on a Mac: mlx_lm.generate --model {target}; smaller: mlx_lm.convert --hf-path {target} -q")
    print(f"loaded again: {facts['proof']!r}")
    return 0


def publish_command(arguments: argparse.Namespace) -> int:
    """Publish a run's model."""
    from common.checkpoints.publish import publish

    publish(
        arguments.path.expanduser(),
        arguments.repo,
        arguments.hub,
        arguments.lora,
        not arguments.public,
        arguments.base,
        arguments.licence,
        arguments.dry_run,
    )
    return 0


def prune_command(arguments: argparse.Namespace) -> int:
    """Remove old checkpoints after a question."""
    checkpoints = found(arguments.path)
    if is_alive(read_run(arguments.path), arguments.path):
        raise ValueError(f"{arguments.path}: this run is under way; stop it first")
    stay = set(arguments.keep_steps)
    if arguments.keep_best:
        best = prune.best_step(arguments.path, arguments.keep_best, [checkpoint.step for checkpoint in checkpoints])
        if best is None:
            raise ValueError(f"--keep-best {arguments.keep_best}: not measured at any step that has a checkpoint")
        stay.add(best)
    doomed = prune.to_remove(arguments.path, arguments.keep, stay, arguments.incomplete)
    if not doomed:
        print("nothing to remove")
        return 0
    for checkpoint, reason in doomed:
        print(f"{checkpoint.path}: {gibibytes(checkpoint.bytes)}, {reason}")
    if not arguments.yes and not _confirmed(len(doomed)):
        print("nothing was removed")
        return 0
    print(f"removed, {gibibytes(sum(prune.remove(checkpoint) for checkpoint, _ in doomed))} are free again")
    return 0


def select_command(arguments: argparse.Namespace) -> int:
    """Choose a checkpoint, or take the choice back."""
    step = arguments.step
    if arguments.best:
        step = prune.best_step(arguments.path, arguments.best, [one.step for one in found(arguments.path)])
        if step is None:
            raise ValueError(f"--best {arguments.best}: not measured at any step that has a checkpoint")
    chosen = select(arguments.path, step)
    print(f"selected: {chosen.path}" if chosen else "none is selected; the newest complete one is taken")
    return 0


def _confirmed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise ValueError("no terminal to ask for confirmation; add --yes to remove them")
    print(f"Remove {count}? [y/N] ", end="", flush=True)
    return input().strip().lower() in ("y", "yes")
