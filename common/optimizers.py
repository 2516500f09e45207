"""Muon for verl's engine: hidden matrices by Muon, embeddings, head, norms and biases by AdamW, both torch's own.

verl makes an optimiser by its module and class and hands it bare parameters (``optim.optimizer_impl``,
``optim.optimizer``); Muon itself takes matrices alone. Which matrix is an embedding or a head is told by its side of
one row a token. Muon: Jordan et al., kellerjordan.github.io/posts/muon; the scale that makes AdamW's learning rate the
right one for it: Liu et al., arXiv 2502.16982.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """Two of torch's optimisers as one, with one learning rate, schedule and state.

    Args:
        params: All of a model's parameters, whole or as FSDP2 shards them.
        lr: Learning rate, as for AdamW.
        weight_decay: Of both.
        vocabulary: Rows of the embedding; a matrix with such a side, or with one row or column, is AdamW's.
        betas: Of AdamW.

    Raises:
        ValueError: If there is no hidden matrix, as where FSDP1 has made one vector of all.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        weight_decay: float,
        vocabulary: int,
        betas: tuple[float, float] = (0.9, 0.999),
    ):
        params = list(params)
        hidden = [one for one in params if is_hidden(one.shape, vocabulary)]
        if not hidden:
            raise ValueError("OPTIMIZER=muon: the model has no hidden matrices; set TRAIN_ENGINE=fsdp2, or adamw")
        taken = set(map(id, hidden))
        others = [one for one in params if id(one) not in taken]
        muon = torch.optim.Muon(hidden, lr, weight_decay, adjust_lr_fn="match_rms_adamw")
        self.parts = [muon]
        if others:
            self.parts.append(torch.optim.AdamW(others, lr, tuple(betas), weight_decay=weight_decay))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the parts work on this optimiser's groups and state, which are what is scheduled, offloaded and saved."""
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; the groups and the state are new objects then."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss


def is_hidden(shape: tuple[int, ...], vocabulary: int) -> bool:
    """Whether Muon takes a parameter of this shape."""
    return len(shape) == 2 and vocabulary not in tuple(shape) and min(shape) > 1
