"""Patch of vLLM: its CPU worker keeps its weights in the form in which verl sends new ones.

After loading, vLLM packs the weight of each linear layer for oneDNN and leaves an empty tensor in its place
(vllm 0.27.1, model_executor/layers/utils.py:313, `remove_weight=True`), so the weights that verl sends next
(verl/workers/rollout/vllm_rollout/utils.py, `model.load_weights`) have nothing to be copied into. Without oneDNN vLLM
multiplies with `torch.nn.functional.linear` on the weight itself. It can go when vLLM keeps the weight.

verl imports the modules of ``VERL_USE_EXTERNAL_MODULES`` in vLLM's worker too, before the model is loaded, because the
worker's extension class is verl's. Processes that have not imported vLLM are left alone.
"""

import sys

if "vllm.v1.worker" in sys.modules or "vllm.v1.executor" in sys.modules:
    from vllm import _custom_ops

    if not hasattr(_custom_ops, "_supports_onednn"):
        raise RuntimeError("vllm._custom_ops has no _supports_onednn; common/cpu_backend/vllm_worker.py needs a look")
    _custom_ops._supports_onednn = False
