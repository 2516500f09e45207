"""A model folder read without torch: number of parameters, tokenizer, chat template."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.demo_model import DEMO_MODEL_DIR
from common.preflight.findings import RefusedError
from common.small_files import MAX_TOKENIZER, read_json_object

DEMO = "demo"
LARGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it


@dataclass(frozen=True)
class ModelInfo:
    """A model on disk.

    Args:
        path: Folder, or a Hugging Face id that is not on this machine.
        config: Its ``config.json``; empty when it is not on this machine.
        parameters: Number of weights, 0 when unknown.
        chat_template: Jinja source, None when there is none.
    """

    path: str
    config: dict[str, Any]
    parameters: int
    chat_template: str | None

    @property
    def is_demo(self) -> bool:
        """Whether this is the built-in model."""
        return self.path == str(DEMO_MODEL_DIR)

    @property
    def size(self) -> str:
        """Number of parameters in words, e.g. ``7.6B``."""
        if not self.parameters:
            return "unknown size"
        unit, word = (1e9, "B") if self.parameters >= 1e9 else (1e6, "M")
        return f"{self.parameters / unit:.1f}{word}"

    @property
    def vocabulary(self) -> int:
        """Number of tokens the model knows, 0 when unknown."""
        return self.config.get("text_config", self.config).get("vocab_size", 0)

    @property
    def context(self) -> int | None:
        """Longest sequence the model was made for, tokens."""
        text = self.config.get("text_config", self.config)
        return text.get("max_position_embeddings")


def read_model(path: str, weights: bool = True) -> ModelInfo:
    """Read a model folder.

    Args:
        path: A local folder or a Hugging Face id (``org/name``), whose config is looked up in the hub's cache.
        weights: Whether they must be there; a plan needs only config.json.

    Raises:
        RefusedError: If the folder does not exist or is not a model, with what to do.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return _from_cache(path)
    if not (folder / "config.json").is_file():
        hint = ""
        if any(folder.glob("**/model_world_size_*.pt")) or (folder / "run.json").is_file():
            hint = (
                "this is a run of the kit: use its folder model/ "
                "(.venv/bin/python -m common.checkpoints merge RUN makes it)"
            )
        raise RefusedError("MODEL_PATH", path, "no config.json in it, so it is not a Hugging Face model", hint)
    config = read_json_object(folder / "config.json")
    if weights and not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise RefusedError("MODEL_PATH", path, "no weights (*.safetensors) in it", "is the download complete?")
    parameters = count_parameters(folder) if weights else _planned_parameters(config)
    return ModelInfo(str(folder.resolve()), config, parameters, read_chat_template(folder))


def _planned_parameters(config: dict[str, Any]) -> int:
    from common.plan.weights import read_weights

    try:
        return read_weights(config).parameters
    except ValueError:
        return 0  # the plan says why


def _from_cache(path: str) -> ModelInfo:
    """Look an id up in the local cache of the hub; whether the hub has it shows when verl downloads it."""
    parts = path.split("/")
    if len(parts) != 2 or path.startswith(("/", ".", "~")) or not all(parts):
        raise RefusedError(
            "MODEL_PATH",
            path,
            "no such folder",
            "give a folder with a config.json, a Hugging Face id (Qwen/Qwen3-4B), or demo",
        )
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(path, "config.json")
    if isinstance(config, str):
        cached = Path(config).parent
        text = read_json_object(config)
        return ModelInfo(path, text, count_parameters(cached), read_chat_template(cached))
    return ModelInfo(path, {}, 0, None)


def count_parameters(folder: Path) -> int:
    """Number of weights in the safetensors files of a folder, from their headers; 0 if there are none."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            try:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > LARGEST_HEADER:
                    raise ValueError(f"a header of {length:,} bytes")
                header = json.loads(stream.read(length))
            except (struct.error, ValueError, RecursionError) as error:
                raise RefusedError(
                    "MODEL_PATH",
                    folder,
                    f"{file.name} is not a safetensors file ({error})",
                    "is the download complete?",
                ) from error
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total


def read_chat_template(folder: Path) -> str | None:
    """The chat template of a tokenizer, from either of the two places where it may be."""
    separate = folder / "chat_template.jinja"
    if separate.is_file():
        return separate.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return None
    template = read_json_object(settings, MAX_TOKENIZER).get("chat_template")
    if isinstance(template, list):  # several named templates
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template
