"""Which class of transformers a model folder is loaded with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.small_files import read_json_object


def auto_class(folder: Path) -> Any:
    """The transformers class that loads a model of this config: with a language-model, value, score or vision head."""
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )

    architecture = read_json_object(folder / "config.json").get("architectures", [""])[0]
    if "ForTokenClassification" in architecture:
        return AutoModelForTokenClassification
    if "ForSequenceClassification" in architecture:
        return AutoModelForSequenceClassification
    return AutoModelForImageTextToText if "ForConditionalGeneration" in architecture else AutoModelForCausalLM


def read_config(folder: Path) -> Any:
    """The config of a checkpoint without the attention that it was trained with.

    verl writes that into config.json (``flash_attention_2``, ``sdpa_varlen``), and transformers would insist on it
    where the model is merged and loaded, which may be a machine that does not have it.
    """
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, attn_implementation="eager", trust_remote_code=False)
