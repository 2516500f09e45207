"""What the harness found of a task, as a report of the kit: a row for each of its documents, its own figures beside."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from common.evaluation.engines.engine import Answer
from common.evaluation.lm_eval_tasks.model import asked_as
from common.evaluation.questions import Question
from common.evaluation.report.report import Report
from common.evaluation.report.results import ModelResults
from common.evaluation.settings import Settings
from common.evaluation.suites.catalog import Bench
from common.evaluation.suites.load import Loaded
from common.evaluation.suites.run import SetResult

LIKELY = "chosen by log-likelihood"
NOT_METRICS = ("alias", "name", "sample_len", "sample_count")


@dataclass(frozen=True)
class Asked:
    """A model that answered, and what the harness returned for it.

    Args:
        name: In tables.
        given: What the user wrote.
        path: What was loaded.
        engine: Name and version.
        seconds: All tasks took.
        found: ``lm_eval.simple_evaluate``'s result.
        answered: Request (``model.asked_as``) -> the engine's answer.
    """

    name: str
    given: str
    path: str
    engine: str
    seconds: float
    found: Mapping[str, Any]
    answered: Mapping[str, Answer]


def figures_of(found: Mapping[str, Any], task: str) -> dict[str, Any]:
    """``metric,filter`` -> the harness's figure of a task or group, the first one is the one that people quote."""
    values = found["results"].get(task) or found.get("groups", {}).get(task, {})
    return {name: value for name, value in values.items() if name not in NOT_METRICS and "_stderr" not in name}


def task_result(task: str, models: Sequence[Asked], settings: Settings, facts: Mapping[str, Any]) -> SetResult:
    """A task as a set of a suite.

    Args:
        task: Its name.
        models: The tested one first.
        settings: ``n`` and what the user gave.
        facts: What a reader should know of all tasks.
    """
    first = models[0].found
    config = first["configs"][task]
    figures = figures_of(first, task)
    main = next(iter(figures), "")
    documents = _documents(first["samples"][task])
    questions = [_question(number, one, task) for number, one in enumerate(documents)]
    notes = _notes(task, models, main)
    results = [_answers(task, model, main, not notes) for model in models]
    about = {
        "task": f"{task} of lm-evaluation-harness {facts['lm-eval']}, version {first['versions'].get(task)}",
        "from": " ".join(str(config[name]) for name in ("dataset_path", "dataset_name") if config.get(name)),
        "examples in the prompt": first["n-shot"].get(task, 0),
        "generation_kwargs": json.dumps(config.get("generation_kwargs") or {}, ensure_ascii=False),
        **{f"lm-eval: {model.name}, {name}": value for model in models for name, value in _own(model, task)},
        **facts,
    }
    bench = Bench(
        name=task, title=task, suite="lm-eval", hugging_face=str(config.get("dataset_path")), revision="", licence="",
        paper="", split=str(config.get("test_split") or config.get("validation_split")), prompt="", reward="lm-eval",
        metric=main, rows=None, settings={"n": 1},
    )  # fmt: skip
    loaded = Loaded(bench, questions, [], about["from"], "", notes, [])
    return SetResult(loaded, settings, Report(questions, results, 1, about, notes))


def _documents(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One sample of each document; the harness has one for each filter."""
    return list({sample["doc_id"]: sample for sample in samples}.values())


def _question(number: int, sample: Mapping[str, Any], task: str) -> Question:
    prompt = str(next(iter(sample["arguments"]))[0])
    question = Question(number, number + 1, [{"role": "user", "content": prompt}], id=sample["doc_id"])
    question.data_source, question.ground_truth = task, str(sample["target"])
    return question


def _answers(task: str, model: Asked, main: str, counts: bool) -> ModelResults:
    """Answers and scores by row; without scores where the mean of the rows is not the harness's figure."""
    results = ModelResults(model.name, model.given, model.path, model.engine, seconds=model.seconds)
    samples = model.found["samples"][task]
    parts = _parts(samples)
    for number, sample in enumerate(_documents(samples)):
        results.answers[number, 0] = replace(_answer(sample, model.answered), row=number, sample=0)
        values = parts[sample["doc_id"]]
        if counts:
            results.scores[number, 0] = {"score": values[main], "parts": values}
    return results


def _parts(samples: Sequence[Mapping[str, Any]]) -> dict[Any, dict[str, float]]:
    """Document -> ``metric,filter`` -> its value, for values that are numbers."""
    found: dict[Any, dict[str, float]] = {}
    for sample in samples:
        values = found.setdefault(sample["doc_id"], {})
        for metric in sample["metrics"]:
            value = sample.get(metric)
            if isinstance(value, bool | int | float) or hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
                values[f"{metric},{sample['filter']}"] = float(value)
    return found


def _answer(sample: Mapping[str, Any], answered: Mapping[str, Answer]) -> Answer:
    """What was answered; of log-likelihoods each continuation with its own."""
    if isinstance(sample["resps"][0][0], str):
        return answered[asked_as(sample["arguments"][0])]
    pairs = zip(sample["arguments"], sample["resps"], strict=False)
    lines = [f"{argument[-1]!r}: {_log_prob(answers[0]):.4f}" for argument, answers in pairs]
    return Answer(0, 0, f"{LIKELY}\n" + "\n".join(lines))


def _log_prob(answer: Any) -> float:
    return float(answer[0] if isinstance(answer, list | tuple) else answer)


def _own(model: Asked, task: str) -> list[tuple[str, str]]:
    """The harness's own figures, with its standard error."""
    found = []
    for name, value in figures_of(model.found, task).items():
        metric, _, kind = name.partition(",")
        error = model.found["results"][task].get(f"{metric}_stderr,{kind}")
        text = f"{value:.6g}" if isinstance(value, int | float) else str(value)
        found.append((name, text + (f" ± {error:.2g}" if isinstance(error, float) and not math.isnan(error) else "")))
    return found


def _notes(task: str, models: Sequence[Asked], main: str) -> list[str]:
    """Why the rows have no score, where they have none."""
    for model in models:
        whole = figures_of(model.found, task).get(main)
        values = [values.get(main) for values in _parts(model.found["samples"][task]).values()]
        known = [value for value in values if value is not None]
        if (
            len(known) < len(values)
            or not isinstance(whole, int | float)
            or not math.isclose(mean(known), whole, rel_tol=1e-9, abs_tol=1e-9)
        ):
            return [f"{main or 'its metric'} is no mean over rows: see lm-eval's figures under the settings"]
    return []
