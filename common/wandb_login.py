"""Whether Weights & Biases would stop and ask for a key."""

from __future__ import annotations

import netrc
import os
from pathlib import Path


def wandb_login() -> str | None:
    """Return where the Weights & Biases key was found, or None; the key itself is not read out."""
    if os.environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY is set"
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return "you are logged in" if netrc.netrc(path).authenticators("api.wandb.ai") else None
    except (OSError, netrc.NetrcParseError):
        return None
