"""Every text of the page, in English and Chinese, from texts.yaml."""

from __future__ import annotations

from pathlib import Path

import yaml

from common.metrics.names import BY_NAME

LANGUAGES = ("en", "zh")
_TABLE = yaml.load((Path(__file__).parent / "texts.yaml").read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
TEXTS: dict[str, dict[str, str]] = _TABLE["texts"]
ADVICE_ZH: dict[str, str] = _TABLE["advice_zh"]


class Words:
    """The texts of one language.

    Args:
        language: "en" or "zh".
    """

    def __init__(self, language: str):
        self.language = language

    def __call__(self, key: str, *values: object) -> str:
        """The text of a key, with its {0}, {1} filled in."""
        text = TEXTS[key][self.language]
        return text.format(*values) if values else text

    def metric(self, name: str) -> str:
        """What a metric is called on the page; the trainer's own names stay as they are."""
        if name not in BY_NAME:
            return name
        return BY_NAME[name].zh if self.language == "zh" else BY_NAME[name].label
