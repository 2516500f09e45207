"""vLLM's CPU worker keeps its weights in the form in which verl sends new ones.

Target: `_supports_onednn`, vllm/_custom_ops.py; read in `dispatch_cpu_unquantized_gemm`,
vllm/model_executor/layers/utils.py (no lines: the builds for CPU and CUDA are of two versions).

After loading, vLLM packs the weight of each linear layer for oneDNN and leaves an empty tensor in its place, so the
weights that verl sends next (``vLLMColocateWorkerExtension``, ``model.load_weights``) have nothing to be copied into.
Without oneDNN vLLM multiplies with `torch.nn.functional.linear` on the weight itself. verl is imported in vLLM's worker
too, before the model is loaded, because the worker's extension class is verl's; processes that have not imported vLLM
are left alone.

Upstream: no issue known.

Until: vLLM keeps the weight of a layer that it packs.
"""

from __future__ import annotations


def replacement(original: bool) -> bool:
    """No oneDNN."""
    return False
