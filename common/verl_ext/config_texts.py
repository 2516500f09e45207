r"""A text of a knob that holds ``${`` stays that text when verl resolves its config.

Target: `OmegaConf.resolve`, called by `TaskRunnerV1.run`, verl/trainer/main_ppo.py:133.

The kit escapes ``${`` in a knob's text (`hydra_quote`), so that ``${oc.env:HF_TOKEN}`` in a path brings no secret into
the config. Resolving in place takes the escape away, and the next look at the value interpolates after all. Texts with
``${`` in them are escaped again after each resolving.

Upstream: no issue known.

Until: verl resolves a copy, or OmegaConf keeps escapes when it resolves in place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any


def as_text(text: str) -> str:
    r"""The text with ``${`` as ``\${``, which OmegaConf reads as the text itself."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)


def replacement(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """The original, after which texts with ``${`` are escaped as they were."""

    def resolve(config: Any) -> None:
        from omegaconf import OmegaConf

        plain = OmegaConf.to_container(config, resolve=True)
        _set_texts(config, plain, lambda text: "")  # else a reference to one could be looked up half-way
        original(config)
        _set_texts(config, plain, as_text)

    return resolve


def _set_texts(config: Any, plain: Any, change: Callable[[str], str]) -> None:
    """Set each text with ``${`` in it to what ``change`` makes of it; ``plain`` is the config as values."""
    from omegaconf import Container

    for key, value in plain.items() if isinstance(plain, dict) else enumerate(plain):
        node = config._get_node(key)
        if isinstance(value, str) and "${" in value:
            node._set_value(change(value))
        elif isinstance(value, dict | list) and isinstance(node, Container) and not node._is_interpolation():
            _set_texts(node, value, change)
