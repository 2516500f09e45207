"""``./test.sh --suite lm-eval:TASKS``: each model once, each of its tasks a sheet of the workbook."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from common.evaluation.batch import find_sources, free_name, names_of
from common.evaluation.lm_eval_tasks.results import Asked, figures_of, task_result
from common.evaluation.report.outputs import check_output
from common.evaluation.run_model import Candidate, get_ready
from common.evaluation.settings import Backend, EvaluationError, Settings
from common.evaluation.suites.run import SuiteOptions, write

PREFIX = "lm-eval:"
INSTALL = ".venv/bin/python -m pip install -r requirements/lm-eval.txt"
OPTIONS = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_new_tokens": "max_gen_toks"}


def run_tasks(options: SuiteOptions, base: Settings, backend: Backend, console: Console) -> int:
    """Evaluate and write; returns the exit status.

    Args:
        options: ``suite`` is ``lm-eval:NAME,NAME``; ``data`` a folder with task files of the user.
        base: ``system``, ``template``, ``thinking`` and ``seed`` count; what was given by name overrides a task's own.
        backend: transformers only.
        console: For progress.

    Raises:
        EvaluationError: If something is wrong that the user can put right.
    """
    _check(options, base, backend)
    names = [name.strip() for name in options.suite.removeprefix(PREFIX).split(",") if name.strip()]
    sources = find_sources(options.model, options.others, backend)
    output = check_output(options.output_file or free_name(sources[0], "lm-eval-" + "-".join(names)))
    if output.suffix.lower() != ".xlsx":
        raise EvaluationError(f"--output_file {output}: a suite goes into a workbook, .xlsx")
    tasks = _load(names, options.data)
    console.print(f"tasks   {escape(', '.join(tasks['tasks']))}\noutput  {escape(str(output))}")
    candidates = [
        get_ready(source, name, base, backend, console.print)
        for source, name in zip(sources, names_of(sources), strict=True)
    ]
    models = [_ask(candidate, names, tasks["manager"], options, base, backend, console) for candidate in candidates]
    facts = _facts(options, base, backend)
    results = [task_result(task, models, base, facts) for task in models[0].found["samples"]]
    for group in models[0].found.get("groups", {}):
        for model in models:
            figures = ", ".join(f"{name} {value}" for name, value in figures_of(model.found, group).items())
            results[0].loaded.notes.append(f"{model.name}, group {group}, weighed by lm-eval: {figures}")
    write(results, output, console)
    return 0


def _check(options: SuiteOptions, base: Settings, backend: Backend) -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise EvaluationError(f"--suite {options.suite}: lm-evaluation-harness is not installed here; {INSTALL}")
    if backend.kind != "transformers":
        option = "--server" if backend.kind == "server" else f"--use_{backend.kind}"
        raise EvaluationError(
            f"--suite {options.suite}: is asked with transformers here, which gives the log-likelihoods that tasks "
            f"need; leave {option} out, or run lm_eval itself with it"
        )
    if options.data is not None and not options.data.is_dir():
        raise EvaluationError(f"--data {options.data}: no such folder; with {PREFIX} it holds task files (.yaml)")
    refused = {"--n": "n" in options.given, "--stop": bool(base.stop), "--fresh": options.fresh}
    refused[f"--template {base.template}"] = base.template not in ("auto", "default")
    refused["--hub"] = options.hub != "huggingface"
    for name, is_given in refused.items():
        if is_given:
            raise EvaluationError(f"{name}: has no effect on {PREFIX}, whose tasks bring their own; leave it out")


def _load(names: Sequence[str], folder: Path | None) -> dict[str, Any]:
    """The tasks, with their data, before a model is loaded.

    Raises:
        EvaluationError: If one is not known, or its data cannot be had.
    """
    if not names:
        raise EvaluationError(f"--suite {PREFIX}: names no task, e.g. {PREFIX}gsm8k,arc_easy")
    from common.evaluation.engines.transformers_engine import first_line

    manager = _manager(names, folder)
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        hint = "" if folder else "; tasks of your own: --data DIR with their .yaml files"
        raise EvaluationError(f"--suite {PREFIX}{unknown[0]}: lm-evaluation-harness has no such task{hint}")
    try:
        with _quiet():
            loaded = manager.load(list(names))
    except Exception as error:  # of datasets, the network, a task's own code
        raise EvaluationError(
            f"--suite {PREFIX}{','.join(names)}: cannot be loaded: {type(error).__name__}: {first_line(error)}. "
            "Without internet, give --data DIR with a task file whose dataset_kwargs name local files"
        ) from error
    return {"manager": manager, "tasks": list(loaded["tasks"])}


def _manager(names: Sequence[str], folder: Path | None) -> Any:
    """The harness's index of tasks; the user's folder alone where it has them all, which takes seconds less."""
    from lm_eval.tasks import TaskManager

    if folder:
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if all(name in own.all_subtasks for name in names):
            return own
    return TaskManager(include_path=str(folder) if folder else None)


def _ask(
    candidate: Candidate,
    names: Sequence[str],
    manager: Any,
    options: SuiteOptions,
    base: Settings,
    backend: Backend,
    console: Console,
) -> Asked:
    import lm_eval

    from common.evaluation.engines.transformers_engine import TransformersEngine, choose_devices
    from common.evaluation.lm_eval_tasks.model import make_model

    console.print(f"{candidate.name}: loading the model (transformers)", markup=False)
    source, started = candidate.source, time.monotonic()
    device = choose_devices(source, backend)[0]
    engine = TransformersEngine(
        source, candidate.tokenizer, base, (), device, backend.dtype, backend.batch_tokens, backend.trust_remote_code
    )
    try:
        model = make_model(engine, candidate.context, base.thinking, base.seed)
        given = {OPTIONS[name]: value for name, value in options.given.items()}
        if "temperature" in given:
            given["do_sample"] = given["temperature"] > 0
        with _quiet():
            found = lm_eval.simple_evaluate(
                model=model,
                tasks=list(names),
                task_manager=manager,
                limit=options.limit,
                bootstrap_iters=0,  # the intervals are the kit's
                apply_chat_template=base.template == "auto",
                system_instruction=base.system or None,
                gen_kwargs=given or None,
            )
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, EvaluationError):
            raise
        raise EvaluationError(f"--suite {options.suite}: {type(error).__name__}: {error}") from error
    finally:
        engine.close()
    if model.truncated:
        console.print(
            f"[yellow]warning:[/yellow] {model.truncated:,} prompts were longer than the context and lost their "
            "beginning, as the harness does it"
        )
    seconds = time.monotonic() - started
    name = f"transformers {engine.version}, asked by lm-eval"
    return Asked(candidate.name, source.given, str(source.path), name, seconds, found, model.answered)


def _facts(options: SuiteOptions, base: Settings, backend: Backend) -> dict[str, Any]:
    from lm_eval import __version__

    return {
        "lm-eval": __version__,
        "chat template": "the tokenizer's own" if base.template == "auto" else "none",
        "system prompt": base.system or "none",
        "thinking": base.thinking,
        "seed": base.seed,
        **{f"given: {name}": value for name, value in options.given.items()},
        "rows at most": options.limit or "all",
        "weights as": backend.dtype,
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness logs much and prints to stdout: warnings only, on stderr."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)
