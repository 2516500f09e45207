"""What the platform's streams are made of, on the server and in the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Message:
    """One message of a stream.

    Args:
        id: Where to resume after it.
        type: Its kind, as "metrics".
        job: Of which job, "" for the platform's own.
        time: When it was made, as in run.json.
        data: What it says.
    """

    id: str
    type: str
    job: str
    time: str
    data: dict[str, Any]
