"""Validation metrics of one's choice: ``VAL_METRICS``, from what a reward's dictionary returns.

``VAL_METRICS="pass4=acc:best@4,vote=acc:maj@4,format:mean"``: a name, a key of the dictionary that the reward function
returns, and how the answers to a question are put together. They are in the metrics as ``val/<name>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_ITEM = re.compile(r"(?:(?P<name>[\w.-]+)=)?(?P<variable>[\w.-]+):(?P<how>mean|(?:best|worst|maj)@[1-9][0-9]{0,3})")


@dataclass(frozen=True)
class Wanted:
    """One metric.

    Args:
        name: Behind ``val/``.
        variable: Key of the reward's dictionary; ``reward`` is the score itself.
        how: ``mean``, ``best@k``, ``worst@k`` or ``maj@k`` (the answer that most of k agree on, by the key ``pred``).
    """

    name: str
    variable: str
    how: str

    def matches(self, key: str) -> bool:
        """Whether a key of verl's, ``val-core/<source>/<variable>/<how>``, is of this metric."""
        parts = key.split("/")
        if parts[0] not in ("val-core", "val-aux"):
            return False
        if self.how == "mean":
            return len(parts) >= 4 and parts[-2] == self.variable and parts[-1].startswith("mean@")
        return len(parts) >= 5 and parts[-3:] == [self.variable, self.how, "mean"]


def parse(text: str) -> list[Wanted]:
    """The metrics that the knob asks for.

    Raises:
        ValueError: If an item is none, or two have one name.
    """
    found: dict[str, Wanted] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        match = _ITEM.fullmatch(item)
        if not match:
            raise ValueError(f"{item!r} is not [name=]key:mean, key:best@k, key:worst@k or key:maj@k")
        name = match["name"] or f"{match['variable']}_{match['how'].replace('@', '')}"
        if name in found:
            raise ValueError(f"two metrics are called {name!r}; write name=key:...")
        found[name] = Wanted(name, match["variable"], match["how"])
    return list(found.values())


def compute(wanted: list[Wanted], metrics: Mapping[str, float]) -> dict[str, float]:
    """``val/<name>`` of each: the mean over the data sources that have it.

    Args:
        wanted: Of `parse`.
        metrics: verl's, of one validation.

    Raises:
        ValueError: If no source has what is asked for; the message names what there is.
    """
    result = {}
    for one in wanted:
        values = [float(value) for key, value in metrics.items() if one.matches(key)]
        if not values:
            keys = (key.partition("/")[2] for key in metrics if key.startswith("val-") and "/std" not in key)
            raise ValueError(
                f"VAL_METRICS: no validation has {one.variable}:{one.how}; there are {', '.join(sorted(keys)[:40])}. "
                "best@k and maj@k need k answers a question (actor_rollout_ref.rollout.val_kwargs.n=k and "
                "actor_rollout_ref.rollout.val_kwargs.do_sample=true), maj@k a key pred in the reward's dictionary."
            )
        result[f"val/{one.name}"] = sum(values) / len(values)
    return result
