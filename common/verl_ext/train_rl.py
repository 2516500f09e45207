"""verl's RL entry point for several machines: ``python -m common.verl_ext.train_rl``, with ``main_ppo``'s arguments.

It joins a Ray that is there (``RAY_ADDRESS``), keeps the trainer on this machine, where the run's files are, and ends
when a machine is gone.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import hydra
import ray
from omegaconf import open_dict
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from verl.trainer import main_ppo

from common.cluster import joined
from common.verl_ext import private

LOOK_SECONDS = 3.0


class Here:
    """``TaskRunnerV1`` on this machine: verl starts it without saying where, and Ray takes any.

    ``run_ppo`` calls ``remote`` or ``options(...).remote`` once Ray is there.
    """

    def __init__(self, **options: Any):
        self._options = options

    def options(self, **options: Any) -> Here:
        """As of any class of Ray."""
        return Here(**{**self._options, **options})

    def remote(self) -> Any:
        """Start it."""
        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        return main_ppo.TaskRunnerV1.options(scheduling_strategy=here, **self._options).remote()


def join_ray(config: Any) -> None:
    """Have verl join the Ray of ``RAY_ADDRESS``; it refuses to be told of CPUs and GPUs then.

    The raylets of a Ray that was there before the run have nothing of the launcher's environment, so their workers get
    the variables that ``WORKER_ENV`` names. No secret is among them: verl prints what it gives to ``ray.init``.
    """
    with open_dict(config):
        start = config.ray_kwargs.ray_init
        start.address = os.environ["RAY_ADDRESS"]
        start.num_cpus = start.num_gpus = start.include_dashboard = None
        names = os.environ.get("WORKER_ENV", "").split(",")
        if names != [""]:
            start.runtime_env.env_vars = {name: os.environ[name] for name in names}
            start.runtime_env.worker_process_setup_hook = "common.verl_ext.joined_worker.set_up"


def watch_machines() -> None:
    """End this process when a machine of the run is gone, or its Ray.

    Of a Ray that was there before, the machines of the run are those with its actors. Without this verl waits for ever:
    its replay buffer (trainer/ppo/v1/replay_buffer.py) counts the lost answers as running.
    """
    ours: dict[str, str] = {}
    while True:
        time.sleep(LOOK_SECONDS)
        if not ray.is_initialized():
            continue
        try:
            nodes, used = ray.nodes(), joined.nodes_of_run() if os.environ.get("WORKER_ENV") else None
        except Exception as error:
            end(f"Ray does not answer any more: {error}")
        alive = {
            node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            for node in nodes
            if node["Alive"]
        }
        gone = [name for node, name in ours.items() if node not in alive]
        if gone:
            end(f"a machine of the run is gone: {', '.join(gone)}")
        ours.update({node: name for node, name in alive.items() if used is None or node in used})


def record_machines() -> None:
    """Keep figures of all machines once verl has joined Ray."""
    while not ray.is_initialized():
        time.sleep(LOOK_SECONDS)
    joined.record_machines(Path(os.environ["RUN_DIR"]), json.loads(os.environ["CLUSTER_MACHINES"]))


def end(reason: str) -> None:
    """Say why and leave at once; Ray ends the run's other processes when its driver is gone."""
    print(f"RuntimeError: {reason}", flush=True)
    os._exit(1)


@hydra.main(config_path=None, config_name=None, version_base=None)
def main(config: Any) -> None:
    """Do what ``main_ppo.main`` does."""
    private.check("common/verl_ext/train_rl.py")
    main_ppo.auto_set_device(config)
    main_ppo.validate_config(
        config=config,
        use_reference_policy=main_ppo.need_reference_policy(config),
        use_critic=main_ppo.need_critic(config),
    )
    join_ray(config)
    threading.Thread(target=watch_machines, daemon=True).start()
    if os.environ.get("WORKER_ENV"):  # a Ray that was there before the run has no launcher on each machine
        threading.Thread(target=record_machines, daemon=True).start()
    main_ppo.run_ppo(config, task_runner_class=Here())


if __name__ == "__main__":
    main()
