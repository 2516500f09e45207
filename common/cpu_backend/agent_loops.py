"""verl's agent loop workers without work that a CPU feels: they take a third of a small model's step.

verl/experimental/agent_loop/agent_loop.py:683 makes an agent loop for every answer through Hydra's ``instantiate``,
which builds and resolves a config of all arguments each time; calling the class does the same. And Python's search for
reference cycles goes through all that verl has loaded, again and again.
"""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import hydra
import ray
from verl.experimental.agent_loop import agent_loop
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, AgentLoopWorkerTQ

from common.verl_source import expect_source


class AgentLoopWorker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """verl's worker, with a shorter way to an agent loop."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        expect_source(agent_loop.AgentLoopWorker._run_agent_loop, "hydra.utils.instantiate(", "agent loops by class")
        agent_loop.hydra = SimpleNamespace(utils=SimpleNamespace(instantiate=instantiate))
        gc.freeze()


def instantiate(config: dict[str, Any], **arguments: Any) -> Any:
    """Call the class that ``_target_`` names, with the other entries of the config and the arguments."""
    fixed = {name: value for name, value in config.items() if not name.startswith("_")}
    return hydra.utils.get_class(config["_target_"])(**fixed, **arguments)


class AgentLoopManager(AgentLoopManagerTQ):
    """verl's manager, with these workers (``rollout.agent.agent_loop_manager_class``)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(AgentLoopWorker)
