"""Which library answers, and what it needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.evaluation.engines.engine import Engine
from common.evaluation.model_path import ModelSource
from common.evaluation.settings import EvaluationError, Settings

INSTALL = {
    "vllm": "./setup_env.sh --engine vllm",
    "sglang": "VENV_DIR=.venv-sglang ./setup_env.sh --engine sglang, and activate .venv-sglang",
}


@dataclass(frozen=True)
class Backend:
    """Where and with what to generate.

    Args:
        kind: ``transformers``, ``vllm``, ``sglang`` or ``server``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        gpus: Number of GPUs (of processes without one); None for all.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        batch_tokens: Tokens of a batch of transformers; None: what memory allows.
        gpu_memory: Share of a GPU's memory for vLLM or SGLang.
        server: Base URL of an OpenAI-compatible server.
        server_model: Its name of the model; "" asks the server.
        concurrency: Requests to the server at once.
        trust_remote_code: Run code that lies in the model's folder.
    """

    kind: str = "transformers"
    device: str = "auto"
    gpus: int | None = None
    dtype: str = "auto"
    batch_tokens: int | None = None
    gpu_memory: float = 0.9
    server: str = ""
    server_model: str = ""
    concurrency: int = 32
    trust_remote_code: bool = False

    def check(self) -> Backend:
        """Return itself.

        Raises:
            EvaluationError: If what it needs is not installed, or a value is out of range.
        """
        if self.kind in INSTALL and importlib.util.find_spec(self.kind) is None:
            raise EvaluationError(
                f"--use_{self.kind}: {self.kind} is not installed here; to get it, on a machine with an NVIDIA GPU: "
                f"{INSTALL[self.kind]}. Or leave --use_{self.kind} out to generate with transformers"
            )
        for name in ("gpus", "batch_tokens", "concurrency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EvaluationError(f"--{name} {value}: must be at least 1")
        if not 0 < self.gpu_memory < 1:
            raise EvaluationError(f"--gpu_memory_utilization {self.gpu_memory}: must be between 0 and 1")
        return self


def make_engine(
    backend: Backend,
    source: ModelSource,
    tokenizer: Any,
    settings: Settings,
    stop: Sequence[str],
    for_chat: bool = False,
) -> Engine:
    """Load a model.

    Args:
        backend: Where and with what.
        source: The model.
        tokenizer: Its tokenizer.
        settings: Sampling.
        stop: Stop texts.
        for_chat: One answer at a time, so one copy of the model.

    Raises:
        EvaluationError: If it cannot be loaded.
    """
    if backend.kind == "vllm":
        from common.evaluation.engines.vllm_engine import VllmEngine

        return VllmEngine(backend, source, tokenizer, settings, stop)
    if backend.kind == "sglang":
        from common.evaluation.engines.sglang_engine import SglangEngine

        return SglangEngine(backend, source, tokenizer, settings, stop)
    if backend.kind == "server":
        from common.evaluation.engines.server_engine import ServerEngine

        return ServerEngine(backend, settings, stop)
    from common.evaluation.engines.transformers_engine import TransformersEngine, choose_devices

    devices = choose_devices(source, backend)
    if len(devices) > 1 and not for_chat:
        from common.evaluation.engines.pool import PoolEngine

        return PoolEngine(backend, source, settings, stop, devices)
    return TransformersEngine(
        source, tokenizer, settings, stop, devices[0], backend.dtype, backend.batch_tokens, backend.trust_remote_code
    )


def context_length(source: ModelSource, trust_remote_code: bool) -> int | None:
    """Longest sequence a model was made for, tokens; None when it does not say."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        from common.evaluation.engines.transformers_engine import first_line

        raise EvaluationError(f"--model_path {source.given}: cannot be loaded: {first_line(error)}") from error
    return getattr(config.get_text_config(), "max_position_embeddings", None)
