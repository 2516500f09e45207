"""The kit's callback with a look at verl's vLLM server on a GPU: its weights, and the memory that sleep frees.

Needs VLLM_ALLOW_INSECURE_SERIALIZATION=1, which lets a function travel to the worker of the test's own server.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ray

from common.callbacks import RunCallback


def _free(worker: Any) -> int:
    import torch

    return torch.cuda.mem_get_info()[0]


class LookAtServer(RunCallback):
    """Write ``probe.json`` at the first save, and ``server_<step>.pt`` after each step of a small model.

    On a GPU the server sleeps without its weights while the trainer works, so they are read when they have just come.
    """

    def on_start(self, trainer: Any, resumed: int) -> None:
        """Read the server's weights behind each synchronization."""
        super().on_start(trainer, resumed)
        synchronize = trainer.on_step_end

        def then_write() -> None:
            synchronize()
            out = str(Path(self.run_dir) / f"server_{trainer.global_steps}.pt")

            def write(worker: Any, out: str = out) -> None:
                import torch

                weights = worker.model_runner.model.state_dict()
                if sum(tensor.numel() for tensor in weights.values()) < 10**7:
                    torch.save({name: tensor.cpu() for name, tensor in weights.items()}, out)

            ray.get(self._server().collective_rpc.remote(write))

        trainer.on_step_end = then_write

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs) -> None:
        """Bytes of GPU memory that are free while the server sleeps, is awake, and sleeps again."""
        probe = Path(self.run_dir) / "probe.json"
        if not probe.exists():
            free = [self._ask(_free)]
            for call in ("wake_up", "sleep"):
                ray.get(getattr(self._server(), call).remote())
                free.append(self._ask(_free))
            probe.write_text(json.dumps(dict(zip(("asleep", "awake", "asleep_again"), free, strict=True))))
        super().on_save(trainer, global_step, checkpoint_dir, async_save, **kwargs)

    def _server(self) -> Any:
        return ray.get_actor("vllm_server_0_0")

    def _ask(self, function: Any) -> int:
        return ray.get(self._server().collective_rpc.remote(function))[0]
