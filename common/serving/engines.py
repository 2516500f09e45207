"""Command lines of vLLM's and SGLang's own servers, with the adapters of several runs over one base model."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.evaluation.model_path import ModelSource
from common.evaluation.settings import EvaluationError
from common.small_files import read_json_object

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Place:
    """Where and on what to serve.

    Args:
        host: Address.
        port: Port.
        gpus: Tensor parallel size; None leaves it to the engine.
        gpu_memory: Share of a GPU's memory.
        max_model_len: Longest sequence, tokens; None: the model's own.
        dtype: Of the weights.
    """

    host: str
    port: int
    gpus: int | None = None
    gpu_memory: float = 0.9
    max_model_len: int | None = None
    dtype: str = "auto"


def choose_engine(wanted: str) -> str:
    """The engine that is asked for, or the best that is installed.

    Raises:
        EvaluationError: If it is not installed.
    """
    if wanted == "auto":
        return next((name for name in ("vllm", "sglang") if importlib.util.find_spec(name)), "transformers")
    if wanted != "transformers" and importlib.util.find_spec(wanted) is None:
        raise EvaluationError(
            f"--engine {wanted}: {wanted} is not installed here; ./setup_env.sh --engine {wanted} installs it, "
            "and --engine transformers works without it"
        )
    return wanted


def adapter_of(source: ModelSource) -> tuple[Path, str] | None:
    """Folder of a model's LoRA adapter and its base model; None for a model that has none.

    Args:
        source: After ``prepare``, so that a run's model and the adapter next to it are there.
    """
    folder = source.adapter or Path(source.path) / "lora_adapter"
    if not (folder / ADAPTER).is_file():
        return None
    base = source.path if source.adapter else read_json_object(folder / ADAPTER).get("base_model_name_or_path")
    return (folder, str(base)) if base else None


@dataclass(frozen=True)
class Layout:
    """What a server of vLLM or SGLang loads.

    Args:
        path: Model folder or id.
        name: Its name.
        adapters: Names and folders of adapters over it.
        rank: The largest of theirs.
    """

    path: str
    name: str
    adapters: Mapping[str, Path]
    rank: int = 0


def lay_out(sources: Mapping[str, ModelSource]) -> Layout:
    """One model as it is; several as adapters over the base model that they share.

    Raises:
        EvaluationError: If they are not.
    """
    if len(sources) == 1:
        name, source = next(iter(sources.items()))
        if source.adapter is None:
            return Layout(source.path, name, {})
    found = {name: adapter_of(source) for name, source in sources.items()}
    whole = [name for name, adapter in found.items() if adapter is None]
    bases = {adapter[1] for adapter in found.values() if adapter}
    # The base model may be among them: it is served anyway.
    rest = [name for name in whole if sources[name].path not in bases]
    if rest or len(bases) != 1:
        what = f"{', '.join(rest)} has no adapter" if rest else f"their base models are {', '.join(sorted(bases))}"
        raise EvaluationError(
            "vLLM and SGLang load one model: several runs are served together when all are LoRA over one base model, "
            f"and {what}; start one server each with its own --port, or use --engine transformers"
        )
    base = bases.pop()
    adapters = {name: adapter[0] for name, adapter in found.items() if adapter}
    name = whole[0] if whole else Path(base).name
    rank = max(int(read_json_object(folder / ADAPTER)["r"]) for folder in adapters.values())
    return Layout(base, name, adapters, rank)


def vllm_command(layout: Layout, place: Place) -> list[str]:
    """The server of vLLM; sampling defaults are OpenAI's, not those that a model's generation_config brings.

    Raises:
        EvaluationError: If an adapter's rank is above what vLLM takes.
    """
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", layout.path]
    command += ["--served-model-name", layout.name, "--host", place.host, "--port", str(place.port)]
    command += ["--generation-config", "vllm", "--gpu-memory-utilization", f"{place.gpu_memory:g}"]
    command += ["--dtype", place.dtype]
    if place.gpus:
        command += ["--tensor-parallel-size", str(place.gpus)]
    if place.max_model_len:
        command += ["--max-model-len", str(place.max_model_len)]
    if layout.adapters:
        rank = next((rank for rank in VLLM_RANKS if rank >= layout.rank), None)
        if rank is None:
            raise EvaluationError(f"an adapter has rank {layout.rank}, vLLM takes up to {VLLM_RANKS[-1]}; merge it")
        command += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(len(layout.adapters))]
        modules = [json.dumps({"name": name, "path": str(folder)}) for name, folder in layout.adapters.items()]
        command += ["--lora-modules", *modules]
    return command


def sglang_command(layout: Layout, place: Place) -> list[str]:
    """The server of SGLang, with the same defaults."""
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", layout.path]
    command += ["--served-model-name", layout.name, "--host", place.host, "--port", str(place.port)]
    command += ["--sampling-defaults", "openai", "--mem-fraction-static", f"{place.gpu_memory:g}"]
    command += ["--dtype", place.dtype]
    if place.gpus:
        command += ["--tp-size", str(place.gpus)]
    if place.max_model_len:
        command += ["--context-length", str(place.max_model_len)]
    if layout.adapters:
        paths = [f"{name}={folder}" for name, folder in layout.adapters.items()]
        command += ["--enable-lora", "--max-loras-per-batch", str(len(paths)), "--lora-paths", *paths]
    return command


def unique(names: Sequence[str], given: Sequence[str]) -> list[str]:
    """Names that tell models apart: short ones, where two are alike what the user wrote."""
    return [given[i] if names.count(name) > 1 else name for i, name in enumerate(names)]
