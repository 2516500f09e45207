"""Experts as verl sends them, one by one, made into the weights that transformers 5 holds them in, all in one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy

import torch
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, dot_natural_key, rename_source_key

# verl's `unfuse_moe_params` gives the experts of every model type the names and the order of this one's checkpoints.
SENT_AS = "qwen2_moe"


class ExpertWeights:
    """Collects the parts of each fused weight of one transfer, in any order and over any number of buckets."""

    def __init__(self) -> None:
        self.converters: list[WeightConverter] = get_checkpoint_conversion_mapping(SENT_AS)
        self.parts: dict[str, dict[str, tuple[str, torch.Tensor]]] = defaultdict(dict)

    def add(
        self, name: str, tensor: torch.Tensor, state: Mapping[str, torch.Tensor]
    ) -> tuple[str, torch.Tensor] | None:
        """Takes one part; gives the fused weight once it is complete.

        Args:
            name: ``....mlp.experts.7.gate_proj.weight``, ``up_proj`` or ``down_proj``.
            tensor: The weight of that expert, (out, in).
            state: The model's weights; the fused one, (experts, ...), says how many parts it has.

        Returns:
            Name and tensor of the fused weight, or None while parts are missing.

        Raises:
            KeyError: If the name belongs to no fused weight of the model.
        """
        fused, pattern = rename_source_key(name, [], self.converters)
        if pattern is None or fused not in state:
            raise KeyError(name)
        converter = next(one for one in self.converters if pattern in one.source_patterns)
        self.parts[fused][name] = pattern, tensor
        if len(self.parts[fused]) < len(state[fused]) * len(converter.source_patterns):
            return None
        converter = deepcopy(converter)
        for part, (source, weight) in sorted(self.parts.pop(fused).items(), key=lambda item: dot_natural_key(item[0])):
            converter.add_tensor(fused, part, source, weight)  # transformers stacks them in this order
        return fused, converter.convert(fused)[fused]
