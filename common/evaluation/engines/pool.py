"""Several copies of a model, a process each, that share the questions: one a GPU, or several on a CPU."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from common.evaluation.engines.engine import Answer, Ask, Deliver, Meter
from common.evaluation.model_path import ModelSource
from common.evaluation.settings import Backend, EvaluationError, Settings

PART = 512  # asks that a process takes at once; small enough that all end at about the same time
POLL_S = 0.2


class PoolEngine:
    """Starts the processes, hands out questions by length, collects answers.

    Args:
        backend: For each of them.
        source: The model.
        settings: Sampling.
        stop: Stop texts.
        devices: Where each copy goes.
    """

    name = "transformers"

    def __init__(
        self, backend: Backend, source: ModelSource, settings: Settings, stop: Sequence[str], devices: Sequence[str]
    ):
        import transformers

        self.version = f"{transformers.__version__}, {len(devices)} processes"
        self.meter = Meter()
        context = multiprocessing.get_context("spawn")
        self.tasks, self.results = context.Queue(), context.Queue()
        threads = max(1, len(os.sched_getaffinity(0)) // len(devices)) if devices[0] == "cpu" else 0
        self.processes = [
            context.Process(
                target=_work,
                args=(self.tasks, self.results, backend, source, settings, tuple(stop), device, threads, os.getpid()),
                daemon=True,
            )
            for device in devices
        ]
        for process in self.processes:
            process.start()

    def answer(self, asks: Sequence[Ask], deliver: Deliver) -> None:
        """Answer all, the longest prompts first.

        Raises:
            EvaluationError: If a process cannot load the model.
            RuntimeError: If a process fails in another way.
        """
        ordered = sorted(asks, key=lambda ask: -len(ask.prompt_ids))
        size = max(1, min(PART, -(-len(ordered) // (4 * len(self.processes)))))
        for start in range(0, len(ordered), size):
            self.tasks.put(ordered[start : start + size])
        left = len(ordered)
        while left:
            try:
                kind, value = self.results.get(timeout=POLL_S)
            except queue.Empty:
                self._see_that_all_live()
                continue
            if kind == "error":
                raise EvaluationError(value)
            if kind == "broken":
                raise RuntimeError(f"a process that generates failed:\n{value}")
            if kind == "ready":
                self.meter.start()
                continue
            left -= 1
            self.meter.tokens += value.tokens
            deliver(value)

    def _see_that_all_live(self) -> None:
        for process in self.processes:
            if process.exitcode is not None:
                raise EvaluationError(
                    f"a process that generates ended with status {process.exitcode}, perhaps for want of memory; "
                    "use fewer with --gpus. Finished answers are kept; the same command resumes"
                )

    def stream(self, ask: Ask, show: Callable[[str], None], stopped: Any) -> Answer:
        """A chat has one copy of the model."""
        raise NotImplementedError

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()


def _work(
    tasks: Any,
    results: Any,
    backend: Backend,
    source: ModelSource,
    settings: Settings,
    stop: tuple[str, ...],
    device: str,
    threads: int,
    parent: int,
) -> None:
    """The process: loads the model, then answers what comes."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        import torch

        from common.evaluation.engines.transformers_engine import TransformersEngine, load_tokenizer

        if threads:
            torch.set_num_threads(threads)
        trust = backend.trust_remote_code
        tokenizer = load_tokenizer(source, trust)
        engine = TransformersEngine(
            source, tokenizer, settings, stop, device, backend.dtype, backend.batch_tokens, trust
        )
        results.put(("ready", None))
        while True:
            engine.answer(tasks.get(), lambda answer: results.put(("answer", answer)))
    except EvaluationError as error:
        results.put(("error", str(error)))
    except BaseException:  # told to the parent, which ends the evaluation
        results.put(("broken", traceback.format_exc()))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, also by kill -9."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
