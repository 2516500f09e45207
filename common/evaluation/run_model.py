"""One model answers all questions: what is there already is kept, the rest is asked, scored and written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from common.evaluation.engines.backends import context_length, make_engine
from common.evaluation.engines.engine import Answer, Ask, Engine, Meter
from common.evaluation.engines.recorded import deliver_recorded
from common.evaluation.engines.templates import Prompter
from common.evaluation.model_path import ModelSource
from common.evaluation.partial import Key, Partial, fingerprint
from common.evaluation.progress import Bar
from common.evaluation.questions import Question
from common.evaluation.report.results import ModelResults
from common.evaluation.rewards import Rewards
from common.evaluation.scorer import Scorer
from common.evaluation.settings import Backend, EvaluationError, Settings


@dataclass
class Job:
    """What all models of an evaluation share.

    Args:
        questions: The rows.
        rewards: Of each row.
        settings: Sampling and prompt.
        backend: Where to generate.
        file_digest: Of the input file.
        folder: Of the output; partial files lie there.
        console: For progress.
        fresh: Throw away what an interrupted evaluation left.
    """

    questions: Sequence[Question]
    rewards: Rewards
    settings: Settings
    backend: Backend
    file_digest: str
    folder: Path
    console: Console
    fresh: bool = False


@dataclass
class Candidate:
    """A model that is ready to be asked, apart from its weights.

    Args:
        source: Where it lies.
        name: In tables, different from the others' names.
        tokenizer: Its tokenizer; None for a server.
        prompter: Makes its prompts; None for a server.
        context: Longest sequence, tokens; None when unknown.
        keeps_engine: Leave the model loaded for another set of questions, until ``close``.
        engine: It, while it is kept.
    """

    source: ModelSource
    name: str
    tokenizer: Any = None
    prompter: Prompter | None = None
    context: int | None = None
    keeps_engine: bool = False
    engine: Engine | None = None

    def close(self) -> None:
        """Give back a kept model."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None


def get_ready(
    source: ModelSource, name: str, settings: Settings, backend: Backend, say: Callable[[str], None]
) -> Candidate:
    """Load the tokenizer and see that prompts can be made.

    Args:
        source: The model.
        name: In tables.
        settings: For the prompts.
        backend: A server has its own tokenizer and template.
        say: Is told when a checkpoint has to be merged first.

    Raises:
        EvaluationError: If the model cannot be used.
    """
    if backend.kind == "server" or source.is_recorded:
        return Candidate(source, name)
    from transformers.utils import logging

    from common.evaluation.engines.transformers_engine import load_tokenizer

    logging.disable_progress_bar()  # the evaluation has one of its own
    source = source.prepare(say)
    tokenizer = load_tokenizer(source, backend.trust_remote_code)
    context = context_length(source, backend.trust_remote_code)
    return Candidate(source, name, tokenizer, Prompter(tokenizer, settings, source.given), context)


def run_model(candidate: Candidate, job: Job) -> tuple[ModelResults, Partial]:
    """Answer and score all questions.

    Returns:
        The results, and the file that holds them until the output is written.
    """
    parts = [candidate.source.identity(), job.file_digest, job.settings.as_dict(), job.backend.kind, job.backend.dtype]
    partial = Partial(job.folder, fingerprint([*parts, job.backend.server_model]))
    if job.fresh:
        partial.clear()
    results = ModelResults(candidate.name, candidate.source.given, candidate.source.path, job.backend.kind)
    wanted = [(q.row, sample) for q in job.questions if not q.problem for sample in range(job.settings.n)]
    partial.keep_only(wanted)
    results.answers = partial.answers
    missing = [key for key in wanted if key not in partial.answers]
    if missing and len(missing) < len(wanted):
        there = len(wanted) - len(missing)
        job.console.print(f"{candidate.name}: resuming, {there:,} answers are there already", markup=False)
    bar = Bar(job.console, candidate.name, len(wanted), len(wanted) - len(missing))
    scorer = Scorer(job.questions, job.rewards.specs, _keep_scores(results, partial, bar))
    try:
        with bar:
            _take_scores(results, partial, job, scorer, bar)
            if missing:
                _generate(candidate, job, missing, results, partial, scorer, bar)
            scorer.finish(bar.tick)
    except BaseException:
        scorer.stop()
        partial.close()
        raise
    return results, partial


def _keep_scores(results: ModelResults, partial: Partial, bar: Bar) -> Any:
    def keep(key: Key, reward: str, score: dict[str, Any]) -> None:
        results.scores[key] = score
        if "error" not in score:  # it is tried again next time
            partial.add_score(key, reward, score)
        bar.scored(results.value(key))

    return keep


def _take_scores(results: ModelResults, partial: Partial, job: Job, scorer: Scorer, bar: Bar) -> None:
    """Scores that are there already; answers without one are scored now."""
    for key, answer in list(partial.answers.items()):
        spec = job.rewards.specs[key[0]]
        if spec is None:
            continue
        score = partial.scores.get((key, spec.identity))
        if score is None:
            scorer.add(answer)
        else:
            results.scores[key] = score
            bar.scored(results.value(key))


def _generate(
    candidate: Candidate,
    job: Job,
    missing: list[Key],
    results: ModelResults,
    partial: Partial,
    scorer: Scorer,
    bar: Bar,
) -> None:
    def deliver(answer: Answer) -> None:
        if answer.error is None:
            partial.add_answer(answer)
        else:  # it is tried again next time
            results.answers[answer.row, answer.sample] = answer
        scorer.add(answer)
        bar.answered()

    if candidate.source.is_recorded:
        results.engine = "recorded"
        deliver_recorded(Path(candidate.source.path), job.questions, missing, deliver)
        return
    asks, refused = make_asks(candidate, job, missing)
    for answer in refused:
        deliver(answer)
    if not asks:
        return
    engine = _engine(candidate, job)
    try:
        bar.meter = engine.meter
        results.engine = f"{engine.name} {engine.version}"
        engine.answer(asks, deliver)
        results.tokens, results.seconds = engine.meter.tokens, engine.meter.seconds
        bar.meter = None
    finally:
        if candidate.engine is not engine:
            engine.close()


def _engine(candidate: Candidate, job: Job) -> Engine:
    """The model, loaded; one that was kept answers with the settings of this job."""
    if candidate.engine is not None:
        candidate.engine.settings, candidate.engine.meter = job.settings, Meter()
        return candidate.engine
    job.console.print(f"{candidate.name}: loading the model ({job.backend.kind})", markup=False)
    stop = candidate.prompter.stop if candidate.prompter else job.settings.stop
    engine = make_engine(job.backend, candidate.source, candidate.tokenizer, job.settings, stop)
    if candidate.keeps_engine and hasattr(engine, "settings"):  # the processes of several copies have theirs for good
        candidate.engine = engine
    return engine


def make_asks(candidate: Candidate, job: Job, keys: Sequence[Key]) -> tuple[list[Ask], list[Answer]]:
    """What is to be answered, and errors for prompts that cannot be."""
    settings, prompter = job.settings, candidate.prompter
    asks: list[Ask] = []
    refused: list[Answer] = []
    if prompter is None:
        return [_server_ask(job, key) for key in keys], []
    texts: dict[int, str] = {}
    errors: dict[int, str] = {}
    for row in dict.fromkeys(row for row, _ in keys):
        try:
            texts[row] = prompter.render(job.questions[row].messages, job.questions[row].tools)
        except EvaluationError as error:
            errors[row] = str(error)
    ids = dict(zip(texts, prompter.encode(list(texts.values())), strict=True))
    for row, sample in keys:
        error = errors.get(row) or _too_long(ids.get(row, []), candidate.context)
        if error:
            refused.append(Answer(row, sample, finish="error", error=error))
            continue
        room = settings.max_new_tokens
        if candidate.context:
            room = min(room, candidate.context - len(ids[row]))
        asks.append(Ask(row, sample, ids[row], [], room, settings.seed_of(row, sample)))
    return asks, refused


def _server_ask(job: Job, key: Key) -> Ask:
    messages, system = job.questions[key[0]].messages, job.settings.system
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return Ask(*key, [], messages, job.settings.max_new_tokens, job.settings.seed_of(*key))


def _too_long(ids: list[int], context: int | None) -> str | None:
    if not ids:
        return "the prompt has no tokens"
    if context and len(ids) >= context:
        return f"the prompt has {len(ids):,} tokens, and the model's context is {context:,}: no room for an answer"
    return None
