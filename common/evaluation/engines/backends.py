"""Which library answers, and what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.evaluation.engines.engine import Engine
from common.evaluation.model_path import ModelSource
from common.evaluation.settings import Backend, EvaluationError, Settings


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
