"""How often a model answers each row right, by the engines and rewards of ``test.sh``."""

from __future__ import annotations

from typing import Any

from common.data.difficulty import Asked, Share
from common.data.names import Columns
from common.data.readers.files import DataError
from common.evaluation.batch import find_sources, try_rewards
from common.evaluation.questions import Question, file_digest, problems, read_questions
from common.evaluation.rewards import choose
from common.evaluation.run_model import Job, get_ready, run_model
from common.evaluation.settings import Backend, EvaluationError, Settings


def shares_of(asked: Asked, console: Any) -> tuple[list[Share | None], Any]:
    """Answer and score all rows of a file.

    Args:
        asked: The file, the model, and how it answers.
        console: For progress.

    Returns:
        For each row the share of right answers, None where no answer could be scored; and a function that removes
        what lets an interrupted measurement resume, to be called when the result is written.

    Raises:
        DataError: If the model, the reward or a setting cannot be used.
    """
    try:
        return _measured(asked, console)
    except EvaluationError as error:
        raise DataError(str(error).replace("--model_path", "--model")) from error


def _measured(asked: Asked, console: Any) -> tuple[list[Share | None], Any]:
    settings = Settings(
        temperature=asked.temperature, max_new_tokens=asked.max_new_tokens, n=asked.samples, seed=asked.seed
    ).check()
    backend = Backend("server" if asked.server else asked.engine, server=asked.server).check()
    source = find_sources(asked.model, (), backend)[0]
    questions = read_questions(asked.file, Columns())
    for line in problems(questions, asked.file):
        console.print(line, markup=False)
    rewards = choose(questions, asked.reward, {}, source.run_dir, asked.file)
    for reason in rewards.reasons:
        console.print(f"reward: {reason}", markup=False)
    if not any(rewards.specs):
        raise EvaluationError(f"--reward {asked.reward}: scores no row; give a reward, or a ground truth")
    try_rewards(questions, rewards)
    candidate = get_ready(source, source.name, settings, backend, console.print)
    job = Job(questions, rewards, settings, backend, file_digest(asked.file), asked.folder, console)
    results, partial = run_model(candidate, job)
    partial.close()
    return [_share(question, results, asked) for question in questions], partial.remove


def _share(question: Question, results: Any, asked: Asked) -> Share | None:
    values = [results.value((question.row, sample)) for sample in range(asked.samples)]
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Share(sum(value >= asked.min_score for value in known) / len(known), max(known))
