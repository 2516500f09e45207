"""Scores answers during the generation, in a process that can be killed when a reward function hangs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from common.evaluation.engines.engine import Answer
from common.evaluation.questions import Question
from common.evaluation.rewards import Spec
from common.evaluation.settings import EvaluationError
from common.worker import Worker, WorkerDied, WorkerNotStarted

CHUNK = 64  # answers in one question to the process
START_LIMIT_S = 120.0
LIMIT_S = 120.0  # seconds that one call may take; a reward may ask another model
HANGS = 3  # calls over the limit after which no more are made

OnScore = Callable[[tuple[int, int], str, dict[str, Any]], None]


class Scorer:
    """A thread that hands answers to the scoring process.

    Args:
        questions: The rows.
        specs: The reward of each row, None for none.
        on_score: Gets the key of an answer, the identity of the reward and ``{score, parts}`` or ``{error}``.
    """

    def __init__(self, questions: Sequence[Question], specs: Sequence[Spec | None], on_score: OnScore):
        self.questions, self.specs, self.on_score = questions, specs, on_score
        self.limit_s = LIMIT_S
        self.identities = {spec: spec.identity for spec in set(specs) if spec is not None}
        self.worker = Worker("common.evaluation.score_child", start_limit_s=START_LIMIT_S)
        self.waiting: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self.given = self.done = self.hangs = 0
        self.stopped = False
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._work, name="scorer", daemon=True)
        self.thread.start()

    def try_first(self) -> None:
        """Try every reward on its first row, before a model is loaded.

        Raises:
            EvaluationError: If it fails on the row's own ground truth.
        """
        tried: set[Spec] = set()
        for question, spec in zip(self.questions, self.specs, strict=True):
            if spec is None or spec in tried:
                continue
            tried.add(spec)
            truth = question.ground_truth
            result = self._ask([Answer(question.row, 0, "" if truth is None else str(truth))])[0]
            if "error" in result:
                raise EvaluationError(f"--reward {spec.label}: on row {question.row + 1} it fails: {result['error']}")

    def add(self, answer: Answer) -> None:
        """Score an answer soon, if there is something to score it with."""
        if answer.error is None and self.specs[answer.row] is not None:
            self.given += 1
            self.waiting.put(answer)

    def finish(self, report: Callable[[], None]) -> None:
        """Wait until all is scored; ``report`` is called every half second."""
        self.waiting.put(None)
        while self.thread.is_alive():
            self.thread.join(0.5)
            report()
        self.worker.stop()
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """End thread and process without scoring what is left."""
        self.stopped = True
        self.waiting.put(None)
        self.worker.stop()

    def _work(self) -> None:
        try:
            more = True
            while more:
                chunk = [self.waiting.get()]
                while chunk[-1] is not None and len(chunk) < CHUNK and not self.waiting.empty():
                    chunk.append(self.waiting.get())
                more = chunk[-1] is not None
                answers = [answer for answer in chunk if answer is not None]
                for answer, result in zip(answers, self._ask(answers), strict=True):
                    if self.stopped:
                        return
                    self.on_score((answer.row, answer.sample), self.identities[self.specs[answer.row]], result)
                    self.done += 1
        except Exception as error:  # raised again in finish()
            self.failure = error

    def _ask(self, answers: list[Answer]) -> list[dict[str, Any]]:
        """Results of a chunk; one that hangs is found by asking one by one."""
        if not answers:
            return []
        calls = [self._call(answer) for answer in answers]
        if self.hangs < HANGS and not self.stopped:
            try:
                return self.worker.ask(calls, self.limit_s)
            except WorkerNotStarted as error:
                raise EvaluationError(f"the process that scores does not start: {error}") from error
            except (TimeoutError, WorkerDied) as error:
                if len(calls) == 1:
                    self.hangs += 1
                    late = f"did not come back within {self.limit_s:g} s"
                    return [{"error": late if isinstance(error, TimeoutError) else f"took its process down: {error}"}]
                return [self._ask([answer])[0] for answer in answers]
        return [{"error": f"not called: {HANGS} calls before it hung or took their process down"}] * len(answers)

    def _call(self, answer: Answer) -> tuple[str, str, str, dict[str, Any]]:
        question, spec = self.questions[answer.row], self.specs[answer.row]
        arguments = {
            "data_source": question.data_source,
            "solution_str": answer.text,
            "ground_truth": "" if question.ground_truth is None else question.ground_truth,
            "extra_info": dict(question.extra_info),
        }
        return spec.path, spec.name, spec.parameters, arguments
