"""Answers from vLLM's offline engine.

Requests go into vLLM's own loop (``LLM.generate`` is the same loop, and gives nothing back before the last answer), so
each answer is kept the moment it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from common.evaluation.engines.engine import Answer, Ask, Deliver, Meter
from common.evaluation.model_path import ModelSource
from common.evaluation.settings import Backend, EvaluationError, Settings
from common.small_files import read_json_object

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vllm/config/lora.py, MaxLoRARanks


class VllmEngine:
    """One vLLM engine over all GPUs.

    Args:
        backend: Memory share, dtype, GPUs.
        source: The model; a LoRA adapter is added in vLLM itself.
        tokenizer: Its tokenizer; unused, as prompts come as token ids.
        settings: Sampling.
        stop: Stop texts.
    """

    name = "vllm"

    def __init__(self, backend: Backend, source: ModelSource, tokenizer: Any, settings: Settings, stop: Sequence[str]):
        options = on_cpu(backend)
        import vllm

        self.version = vllm.__version__
        self.settings, self.stop, self.meter = settings, list(stop), Meter()
        self.lora: Any = None
        options = {
            "model": source.path,
            "dtype": backend.dtype,
            "trust_remote_code": backend.trust_remote_code,
            "gpu_memory_utilization": backend.gpu_memory,
            "tensor_parallel_size": tensor_parallel_size(source, backend),
            "seed": settings.seed,
            "max_model_len": -1,  # the whole context, or as much of it as one sequence finds room for
        } | options
        if source.adapter is not None:
            from vllm.lora.request import LoRARequest

            rank = read_json_object(source.adapter / "adapter_config.json")["r"]
            options |= {"enable_lora": True, "max_lora_rank": lora_rank_limit(rank)}
            self.lora = LoRARequest("adapter", 1, str(source.adapter))
        try:
            self.llm = vllm.LLM(**options)
        except (ValueError, RuntimeError, OSError) as error:
            text = f"{error}{memory_hint(str(error))}"
            raise EvaluationError(f"--use_vllm: cannot load {source.given}: {text}") from error
        self.engine = self.llm.llm_engine
        self.count = 0

    def _add(self, ask: Ask, kind: Any) -> str:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        settings = self.settings
        params = SamplingParams(
            temperature=0.0 if settings.greedy else settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_tokens=ask.max_tokens,
            seed=None if settings.greedy else ask.seed,
            stop=self.stop,
            output_kind=kind,
        )
        self.count += 1
        name = str(self.count)
        self.engine.add_request(name, TokensPrompt(prompt_token_ids=ask.prompt_ids), params, lora_request=self.lora)
        return name

    def answer(self, asks: Sequence[Ask], deliver: Deliver) -> None:
        """Answer all; vLLM batches them itself."""
        from vllm.sampling_params import RequestOutputKind

        self.meter.start()
        waiting: dict[str, Ask] = {}
        for ask in asks:
            try:
                waiting[self._add(ask, RequestOutputKind.FINAL_ONLY)] = ask
            except ValueError as error:  # e.g. longer than max_model_len
                deliver(
                    Answer(ask.row, ask.sample, prompt_tokens=len(ask.prompt_ids), finish="error", error=str(error))
                )
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                if output.finished:
                    self.meter.tokens += len(output.outputs[0].token_ids)
                    deliver(_answer(waiting.pop(output.request_id), output.outputs[0]))

    def stream(self, ask: Ask, show: Callable[[str], None], stopped: Any) -> Answer:
        """Answer one, showing the text as it grows."""
        from vllm.sampling_params import RequestOutputKind

        self.meter.start()
        name = self._add(ask, RequestOutputKind.CUMULATIVE)
        shown, last = 0, None
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                last = output.outputs[0]
                show(last.text[shown:])
                shown = len(last.text)
            if stopped.is_set():
                self.engine.abort_request([name])
        return Answer(ask.row, ask.sample, finish="length") if last is None else _answer(ask, last)

    def close(self) -> None:
        """End its processes."""
        self.llm = self.engine = None


def lora_rank_limit(rank: int) -> int:
    """The least rank that vLLM has room for and that holds an adapter's.

    Raises:
        EvaluationError: If the adapter's is above all of them.
    """
    fitting = [limit for limit in LORA_RANKS if limit >= rank]
    if not fitting:
        raise EvaluationError(
            f"--use_vllm: the adapter has rank {rank}, vLLM takes up to {LORA_RANKS[-1]}; merge it first, "
            "or leave --use_vllm out"
        )
    return fitting[0]


def memory_hint(error: str) -> str:
    """What to do about an error of vLLM, where it is about memory: another process holds it, or it has too little."""
    if "less than desired" in error:
        return ". Another process holds GPU memory: stop it, or lower --gpu_memory_utilization"
    if "cache" in error.lower() and "memory" in error:
        return ". Raise --gpu_memory_utilization, or use more GPUs"
    return ""


def _answer(ask: Ask, output: Any) -> Answer:
    finish = "length" if output.finish_reason == "length" else "stop"
    return Answer(ask.row, ask.sample, output.text, len(output.token_ids), len(ask.prompt_ids), finish)


def on_cpu(backend: Backend) -> dict[str, Any]:
    """What vLLM's CPU build needs: options, and variables that it reads when it is imported; nothing with a GPU.

    Its share of memory would be one of the host's, most of which others hold, so the cache gets a size instead.
    """
    import psutil
    import torch

    if torch.cuda.is_available():
        return {}
    room = psutil.virtual_memory().available // 2**30 // 4
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, min(room, 8))))  # GiB
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # compiling takes longer than a small model answers
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    return {"enforce_eager": True, "dtype": "float32" if backend.dtype == "auto" else backend.dtype}


def tensor_parallel_size(source: ModelSource, backend: Backend) -> int:
    """GPUs that share one copy: as many as there are and the attention heads can be divided among.

    Raises:
        EvaluationError: If the user asked for a number that does not divide them.
    """
    import torch
    from transformers import AutoConfig

    there = torch.cuda.device_count()
    if there < 2 and backend.gpus in (None, 1):
        return 1
    config = AutoConfig.from_pretrained(source.path, trust_remote_code=backend.trust_remote_code).get_text_config()
    heads = config.num_attention_heads
    if backend.gpus is not None:
        if backend.gpus > there or heads % backend.gpus:
            raise EvaluationError(
                f"--gpus {backend.gpus}: there are {there} GPUs, and the model's {heads} attention heads must divide "
                "among those that are used"
            )
        return backend.gpus
    return max(size for size in range(1, there + 1) if heads % size == 0)
