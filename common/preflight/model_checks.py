"""Is this a model that verl can train? Architecture, tokenizer and vocabulary, from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.preflight.findings import Problem
from common.preflight.knobs import SUPERVISED, Knobs
from common.preflight.model import ModelInfo
from common.small_files import MAX_TOKENIZER, read_json_object

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


def check_fitness(knobs: Knobs, model: ModelInfo | None) -> None:
    """Check the policy; a model that is not on this machine is checked when verl has downloaded it."""
    folder = Path(model.path) if model else None
    if folder is None or not folder.is_dir():
        return
    problems = [
        _architecture(model.config, knobs.algorithm == "reward_model"),
        _quantised(model.config),
        _code(knobs, model.config, folder),
        _tokenizer(folder, model),
    ]
    for problem in filter(None, problems):
        knobs.error("MODEL_PATH", problem, value=model.path)
    if not any(problems):
        knobs.facts.append(("model", model.size, f"{_name(model.config)}, {model.vocabulary:,} tokens"))


def _name(config: dict[str, Any]) -> str:
    return (config.get("architectures") or [config.get("model_type", "unknown")])[0]


def _architecture(config: dict[str, Any], scores: bool) -> Problem | None:
    name = _name(config)
    if scores and name.endswith("ForSequenceClassification"):  # a reward model that learns more
        return None
    if name.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")) or not config.get("architectures"):
        return None
    return Problem(
        f"{name} does not generate text", "use a causal language model (a reward model goes to REWARD_MODEL_PATH)"
    )


def _quantised(config: dict[str, Any]) -> Problem | None:
    settings = config.get("quantization_config")
    if not settings:
        return None
    method = settings.get("quant_method", "unknown")
    return Problem(f"its weights are quantised ({method}), which cannot be trained", "use the original")


def _code(knobs: Knobs, config: dict[str, Any], folder: Path) -> Problem | None:
    key = "model" if "MAX_LENGTH" in knobs or knobs.algorithm in SUPERVISED else "actor_rollout_ref.model"
    trusted = any(text.lstrip("+").lower() == f"{key}.trust_remote_code=true" for text in knobs.arguments)
    brings = "auto_map" in config or "auto_map" in _read_json(folder / "tokenizer_config.json")
    if trusted or not brings:
        return None
    return Problem("it brings custom Python code", f"read it, then add {key}.trust_remote_code=true")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except (OSError, ValueError):
        return {}


def _tokenizer(folder: Path, model: ModelInfo) -> Problem | None:
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return Problem("no tokenizer in it (tokenizer.json)", "is the download complete?")
    file = folder / "tokenizer.json"
    if not file.is_file() or not model.vocabulary:
        return None
    try:
        content = read_json_object(file, MAX_TOKENIZER)
    except ValueError:
        return Problem("tokenizer.json cannot be read", "is the download complete?")
    vocabulary = content.get("model", {}).get("vocab") or {}
    if isinstance(vocabulary, dict):
        ids = [*vocabulary.values(), *(token["id"] for token in content.get("added_tokens", []))]
        largest = max(ids, default=0)
        if largest >= model.vocabulary:
            return Problem(
                f"its tokenizer knows {largest + 1:,} tokens, the model {model.vocabulary:,}; they do not fit",
                "use the tokenizer that came with the model",
            )
    return None
