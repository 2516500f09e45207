"""PPO's critic is loaded with the attention of its configuration (``ATTENTION``), not always with flash-attention.

Target: `load_valuehead_model`, verl/utils/model.py:641.

verl names flash-attention there whatever the configuration says, so that PPO cannot start where it is missing.

Upstream: https://github.com/verl-project/verl/issues/5210 (open), fix in https://github.com/verl-project/verl/pull/4292
(open).

Until: verl passes ``attn_implementation`` on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def replacement(original: Callable[..., torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    """The original for flash-attention, transformers' own loader for any other attention."""

    def load(local_path: str, torch_dtype: torch.dtype, model_config: Any, trust_remote_code: bool) -> torch.nn.Module:
        attention = model_config._attn_implementation
        if attention == "flash_attention_2":
            return original(local_path, torch_dtype, model_config, trust_remote_code)
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_pretrained(
            local_path,
            dtype=torch_dtype,
            config=model_config,
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
        )

    return load
