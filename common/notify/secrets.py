"""Takes secrets out of a text that leaves the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping

SHORTEST = 6  # characters of a value that counts as a secret: a shorter one would take words out of the text
_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|NOTIFY_URLS|COOKIE", re.IGNORECASE)
_FORMS = re.compile(
    r"(?<=://)[^/\s:@]{1,200}:[^/\s@]{1,200}(?=@)"  # user:password@host
    r"|\b(?:sk|hf|ghp|gho|xoxb|xoxp|pk|wandb|local)[-_][A-Za-z0-9_-]{12,200}"
    r"|(?<=Bearer )[\w.~+/=-]{8,500}"
)


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """The text with ``***`` in place of values of secret variables, and of what has the form of a key."""
    values = {
        part
        for name, value in environment.items()
        if _NAMES.search(name)
        for part in (value, *re.split(r"[\s,;/@]+", value))
        if len(part) >= SHORTEST and not part.endswith(":")
    }
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "***")
    return _FORMS.sub("***", text)
