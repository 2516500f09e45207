"""The attention that the trainer will use, in the composed config, against what each of its models needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.attention import SDPA, beyond_sdpa
from common.preflight.config_check import RL, ConfigCheck
from common.preflight.knobs import SUPERVISED, Knobs
from common.preflight.model import ModelInfo
from common.small_files import read_json_object


def check_attention(check: ConfigCheck, knobs: Knobs, model: ModelInfo | None) -> None:
    """Refuse an attention that would compute another model than the one that is named, without a word."""
    for key, config in _models(knobs, model):
        lacking = beyond_sdpa(config)
        if check.get(key) in SDPA and lacking:
            fix = "set ATTENTION=eager, or flash_attention_2 on a GPU"
            check.error(key, f"{lacking}, which it does not compute: another model would be trained", fix)
            return


def _models(knobs: Knobs, model: ModelInfo | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The key of the attention and the config.json of the policy, and of what stands beside it."""
    policy = "model" if knobs.algorithm in SUPERVISED else f"{RL}.model"
    tail = "override_config.attn_implementation"
    if model:
        yield f"{policy}.{tail}", model.config
    for name, part in (("CRITIC_MODEL_PATH", "critic.model"), ("REFERENCE_MODEL_PATH", policy)):
        file = Path(knobs.values.get(name) or "auto") / "config.json"
        if file.is_file():
            yield f"{part}.{tail}", read_json_object(file)
