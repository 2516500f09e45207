"""The attention that the trainer will use, in the composed config, against what each of its models needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.attention import SDPA, beyond_sdpa
from common.preflight.auto import VARLEN_FAMILIES
from common.preflight.config_check import RL, ConfigCheck
from common.preflight.config_sizes import SEQUENCE_PARALLEL
from common.preflight.knobs import SUPERVISED, Knobs
from common.preflight.model import ModelInfo
from common.small_files import read_json_object


def check_attention(check: ConfigCheck, knobs: Knobs, model: ModelInfo | None) -> None:
    """Refuse an attention that would silently compute another model than the one that is named."""
    for key, config in _models(knobs, model):
        lacking = beyond_sdpa(config)
        if check.get(key) in SDPA and lacking:
            fix = "set ATTENTION=eager, or flash_attention_2 on a GPU"
            check.error(key, f"{lacking}, which it does not compute: another model would be trained", fix)
            return


def check_shared_sequences(check: ConfigCheck, knobs: Knobs, model: ModelInfo | None) -> None:
    """Refuse sequence parallel for families that were not compared with one process.

    Only attention sees tokens of other GPUs: a state or a convolution along the sequence would stop at the end of each
    GPU's part, silently. The comparison: tests/unit/test_sequence_parallel.py.
    """
    keys = [*SEQUENCE_PARALLEL, "engine.ulysses_sequence_parallel_size"]
    shared = [key for key in keys if check.size(key) > 1]
    for _, config in _models(knobs, model) if shared else ():
        family = config.get("model_type", "a model that is not on this machine")
        if family not in VARLEN_FAMILIES:
            check.error(shared[0], f"it is not known to be right for {family}", "set 1 or auto")
            return


def _models(knobs: Knobs, model: ModelInfo | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The key of the attention and the config.json of the policy, and of the models next to it."""
    policy = "model" if knobs.algorithm in SUPERVISED else f"{RL}.model"
    tail = "override_config.attn_implementation"
    if model:
        yield f"{policy}.{tail}", model.config
    for name, part in (("CRITIC_MODEL_PATH", "critic.model"), ("REFERENCE_MODEL_PATH", policy)):
        file = Path(knobs.values.get(name) or "auto") / "config.json"
        if file.is_file():
            yield f"{part}.{tail}", read_json_object(file)
