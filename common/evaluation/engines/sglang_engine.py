"""Answers from SGLang's offline engine."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from common.evaluation.engines.engine import Answer, Ask, Deliver, Meter
from common.evaluation.engines.vllm_engine import tensor_parallel_size
from common.evaluation.model_path import ModelSource
from common.evaluation.settings import Backend, EvaluationError, Settings

AT_ONCE = 1024  # requests that SGLang holds; it batches them itself


class SglangEngine:
    """One SGLang engine over all GPUs.

    Args:
        backend: Memory share, dtype, GPUs.
        source: The model; a LoRA adapter is added in SGLang itself.
        tokenizer: Its tokenizer; unused, as prompts come as token ids.
        settings: Sampling.
        stop: Stop texts.
    """

    name = "sglang"

    def __init__(self, backend: Backend, source: ModelSource, tokenizer: Any, settings: Settings, stop: Sequence[str]):
        import sglang

        self.version = sglang.__version__
        self.settings, self.stop, self.meter = settings, list(stop), Meter()
        self.lora = "adapter" if source.adapter is not None else None
        options: dict[str, Any] = {
            "model_path": source.path,
            "dtype": backend.dtype,
            "trust_remote_code": backend.trust_remote_code,
            "mem_fraction_static": backend.gpu_memory,
            "tp_size": tensor_parallel_size(source, backend),
            "random_seed": settings.seed,
            "log_level": "error",
        }
        if self.lora:
            options["lora_paths"] = [f"adapter={source.adapter}"]
        try:
            self.engine = sglang.Engine(**options)
        except (ValueError, RuntimeError, OSError) as error:
            raise EvaluationError(f"--use_sglang: cannot load {source.given}: {error}") from error
        self.loop = getattr(self.engine, "loop", None) or asyncio.new_event_loop()

    def _params(self, ask: Ask) -> dict[str, Any]:
        settings = self.settings
        params: dict[str, Any] = {
            "temperature": 0.0 if settings.greedy else settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.top_k,
            "max_new_tokens": ask.max_tokens,
            "stop": self.stop,
        }
        if not settings.greedy:
            params["sampling_seed"] = ask.seed  # counts with SGLang's deterministic inference
        return params

    def answer(self, asks: Sequence[Ask], deliver: Deliver) -> None:
        """Answer all."""
        self.meter.start()
        self.loop.run_until_complete(self._all(asks, deliver))

    async def _all(self, asks: Sequence[Ask], deliver: Deliver) -> None:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(ask: Ask) -> None:
            async with room:
                try:
                    output = await self.engine.async_generate(
                        input_ids=ask.prompt_ids, sampling_params=self._params(ask), lora_path=self.lora
                    )
                    answer = _answer(ask, output)
                except ValueError as error:  # e.g. longer than the context
                    answer = Answer(ask.row, ask.sample, finish="error", error=str(error))
                self.meter.tokens += answer.tokens
                deliver(answer)

        await asyncio.gather(*map(one, asks))

    def stream(self, ask: Ask, show: Callable[[str], None], stopped: Any) -> Answer:
        """Answer one, showing the text as it grows."""
        self.meter.start()
        return self.loop.run_until_complete(self._stream(ask, show, stopped))

    async def _stream(self, ask: Ask, show: Callable[[str], None], stopped: Any) -> Answer:
        shown, output, name = 0, {}, uuid.uuid4().hex
        pieces = await self.engine.async_generate(
            input_ids=ask.prompt_ids, sampling_params=self._params(ask), lora_path=self.lora, rid=name, stream=True
        )
        async for output in pieces:
            show(output["text"][shown:])
            shown = len(output["text"])
            if stopped.is_set():
                self.engine.tokenizer_manager.abort_request(name)
                break
        return _answer(ask, output) if output else Answer(ask.row, ask.sample, finish="length")

    def close(self) -> None:
        """End its processes."""
        self.engine.shutdown()


def _answer(ask: Ask, output: dict[str, Any]) -> Answer:
    facts = output["meta_info"]
    reason = facts.get("finish_reason") or {}
    finish = "length" if reason.get("type") == "length" else "stop"
    answer = Answer(ask.row, ask.sample, output["text"], facts["completion_tokens"], len(ask.prompt_ids), finish)
    if reason.get("type") == "abort":
        answer.finish, answer.error = "error", str(reason.get("message", "aborted"))
    return answer
