"""The kit's callback with a look at verl's vLLM server: the weights that it holds, and how it takes interruptions.

Needs VLLM_ALLOW_INSECURE_SERIALIZATION=1, which lets a function travel to the worker of the test's own server.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray
import torch

from common.callbacks import RunCallback

PROMPT = [5, 17, 40, 3, 99]
NO_WEIGHT = ("_scale", "inv_freq", "cos_sin_cache", "kv_cache")  # of vLLM's own: constants and caches
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


class WriteServerWeights(RunCallback):
    """At each save: the weights of each server, which are those of the step before (they travel after the save)."""

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs) -> None:
        """Write ``server_<step>_<replica>.pt`` in the run directory."""
        folder = Path(self.config.trainer.default_local_dir).parent
        for replica in range(self.config.trainer.n_gpus_per_node):
            out = str(folder / f"server_{global_step - 1}_{replica}.pt")

            def write(worker, out=out):
                import torch

                torch.save({name: t.clone() for name, t in worker.model_runner.model.state_dict().items()}, out)

            ray.get(ray.get_actor(f"vllm_server_{replica}_0").collective_rpc.remote(write))
        super().on_save(trainer, global_step, checkpoint_dir, async_save, **kwargs)


class AskServer(RunCallback):
    """At the first save: wake the server, interrupt it in each way that verl knows, and let it sleep again."""

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs) -> None:
        """Write what was found to ``probe.json`` in the run directory."""
        if global_step == 1:
            folder = Path(self.config.trainer.default_local_dir).parent
            (folder / "probe.json").write_text(json.dumps(interrupt(ray.get_actor("vllm_server_0_0"))))
        super().on_save(trainer, global_step, checkpoint_dir, async_save, **kwargs)


def interrupt(server: Any) -> dict[str, Any]:
    """Generate, abort, park, reject, drain and sleep; the answers' ends and lengths by name."""
    params = {"temperature": 1.0, "logprobs": True, "ignore_eos": True}

    def send(name: str, **more: Any) -> Any:
        return server.generate.remote(PROMPT, {**params, **more}, name)

    found: dict[str, Any] = {}
    ray.get(server.wake_up.remote())
    greedy = ray.get([send(f"greedy {number}", temperature=0, max_tokens=16) for number in range(2)])
    found["greedy"] = [list(one.token_ids) for one in greedy]
    asked = [send(f"aborted {number}") for number in range(64)]
    time.sleep(0.5)
    found["aborted"] = ray.get(server.abort_all_requests.remote())["aborted_count"]
    found["ends"] = dict(Counter(one.stop_reason for one in ray.get(asked, timeout=60)))
    late = send("late", max_tokens=8)
    found["late waits"] = not ray.wait([late], timeout=3)[0]
    ray.get(server.resume_generation.remote())
    found["late"] = len(ray.get(late, timeout=60).token_ids)
    ray.get(server.abort_all_requests.remote(reject_request=True))
    found["rejected"] = ray.get(send("rejected"), timeout=60).stop_reason
    ray.get(server.resume_generation.remote())
    found["after"] = len(ray.get(send("after", max_tokens=8), timeout=60).token_ids)
    ray.get(server.wait_for_requests_to_drain.remote())
    for call in ("release_kv_cache", "resume_kv_cache", "clear_kv_cache", "sleep"):
        ray.get(getattr(server, call).remote())
    return found


def largest_difference(server: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference of vLLM's weights and a model's; every weight of the model must be there.

    vLLM holds q, k and v as one matrix, gate and up too, and pads the vocabulary.

    Raises:
        ValueError: If a weight of either side has no partner.
    """
    used, worst = set(), 0.0
    for name, tensor in server.items():
        if name == "lm_head.weight" and name not in expected or name.endswith(NO_WEIGHT):
            continue
        fused = next((part for part in FUSED if part in name), None)
        names = [name.replace(fused, part) for part in FUSED[fused]] if fused else [name]
        if missing := [one for one in names if one not in expected]:
            raise ValueError(f"not in the trainer: {missing}")
        used.update(names)
        reference = torch.cat([expected[one] for one in names])
        worst = max(worst, float((tensor[: len(reference)].double() - reference).abs().max()))
    if left := set(expected) - used - {"lm_head.weight"}:
        raise ValueError(f"not on the server: {sorted(left)}")
    return worst
