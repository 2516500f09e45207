"""The critic's loss is multiplied by ``VALUE_LOSS_COEF``.

Target: `value_loss`, verl/workers/utils/losses.py:147.

The critic is a model with an optimizer of its own, so Adam takes the factor out again; it counts against the bound of
the gradient (``critic.grad_clip``). The curve ``value_loss`` is the loss without it.

Upstream: no issue known.

Until: verl's critic has a key for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
    """The original with its loss multiplied.

    The trainer sends the function to its workers, with the factor in it.
    """
    factor = float(os.environ.get("VALUE_LOSS_COEF", "1"))

    def weighted_value_loss(*args: Any, **kwargs: Any) -> Any:
        loss, metrics = original(*args, **kwargs)
        return loss * factor, metrics

    return weighted_value_loss
