"""What a GRPO launch asks of Ray on machines of several sizes, seen with a real Ray that is given their counts.

    .venv/bin/python benchmarks/ray_counts.py                        # all twelve, about 5 minutes
    .venv/bin/python benchmarks/ray_counts.py --cores 4 --gpus 1 8
    .venv/bin/python benchmarks/ray_counts.py --cores 4 8 16 --gpus 1 --verls-own # and what verl's defaults would do

Each launch is resolved by the preflight and composed; Ray starts with the counts of its config (its GPUs are a count,
none is touched). Then comes what verl starts, by its own code where that says what is asked for: TransferQueue,
the placement group of the GPUs' processes; plain actors stand for the workers, which ask for nothing while they run.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.plan.machine import GIB  # noqa: E402
from common.preflight import checks, command  # noqa: E402
from common.preflight.knobs import read_knobs  # noqa: E402
from common.preflight.machine import Machine  # noqa: E402

CORES, GPUS = (4, 8, 16, 64), (1, 2, 8)
PATIENCE = 300  # seconds for all to be there; verl waits for ever


def composed(cores: int, gpus: int) -> Any:
    """The config of a launch of the GRPO demo with vLLM on such a machine.

    Raises:
        ValueError: If the preflight refuses it.
    """
    machine = Machine((80 * GIB,) * gpus, cores, 512 * GIB, planned=True)
    knobs = read_knobs("grpo", {"DEVICE": "cuda", "ROLLOUT_ENGINE": "vllm", "USE_WANDB": "false"})
    checks.prepare(knobs, machine, everything=False)
    if knobs.errors:
        raise ValueError("; ".join(map(str, knobs.errors)))
    with tempfile.TemporaryDirectory() as folder:
        config = command.compose(knobs, Path(folder))
    if config is None:
        raise ValueError("; ".join(map(str, knobs.errors)))
    return config


def start(config: Any, sender: Any) -> None:
    """Start what the config asks for and send what was seen: the CPUs in use and the seconds it took."""
    import ray
    import transfer_queue
    from verl.single_controller.ray.base import ResourcePoolManager

    begun, gpus = time.monotonic(), config.trainer.n_gpus_per_node
    told = config.ray_kwargs.ray_init.num_cpus
    ray.init(address="local", num_cpus=told, num_gpus=gpus, include_dashboard=False, log_to_driver=False)
    transfer_queue.init(config.transfer_queue)
    pools = ResourcePoolManager({"global_pool": [gpus]}, {0: "global_pool"})
    pools.create_resource_pool()
    pools.get_resource_pool(0).get_placement_groups()
    workers = [ray.remote(Worker).remote() for _ in range(workers_of(config))]
    ray.get([worker.ping.remote() for worker in workers])
    left = ray.available_resources()
    sender.send((told - left.get("CPU", 0), gpus - left.get("GPU", 0), time.monotonic() - begun))
    ray.shutdown()


def workers_of(config: Any) -> int:
    """Agent and reward workers, and a server for each GPU."""
    return (
        config.actor_rollout_ref.rollout.agent.num_workers + config.reward.num_workers + config.trainer.n_gpus_per_node
    )


class Worker:
    """A process that asks for nothing."""

    def ping(self) -> None:
        """Say that it is there."""


def seen(config: Any) -> tuple[float, float, float] | None:
    """CPUs in use, GPUs in use and seconds, once all of a launch is there; None: it waits for ever."""
    context = multiprocessing.get_context("fork")  # with verl imported once for all
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=start, args=(config, sender))
    child.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(PATIENCE) else None
    finally:
        child.join(30 if receiver.closed else 5)
        child.kill()


def with_verls_counts(config: Any, cores: int) -> Any:
    """The config with what verl has where a user says nothing: 8 storage units, Ray's own count of cores."""
    config.transfer_queue.backend.SimpleStorage.num_data_storage_units = 8
    config.ray_kwargs.ray_init.num_cpus = cores
    return config


def main() -> int:
    """Print the table; exit status 1 when a launch waits or uses more than there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", nargs="+", type=int, default=CORES)
    parser.add_argument("--gpus", nargs="+", type=int, default=GPUS)
    parser.add_argument("--verls-own", action="store_true", help="verl's defaults in the place of the kit's counts")
    arguments = parser.parse_args()
    import verl.single_controller.ray.base  # noqa: F401

    print(
        "| cores | GPUs | Ray is told of | storage units | workers | in use | all there |\n" + "| ---: " * 6 + "| --- |"
    )
    wrong = 0
    for cores, gpus in itertools.product(arguments.cores, arguments.gpus):
        config = composed(cores, gpus)
        if arguments.verls_own:
            config = with_verls_counts(config, cores)
        found = seen(config)
        told = config.ray_kwargs.ray_init.num_cpus
        wrong += found is None or found[0] > told or found[1] != gpus
        used, _, seconds = found or (0, 0, 0)
        units = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
        ends = (f"{used:.0f}", f"after {seconds:.0f} s") if found else ("", f"not within {PATIENCE} s")
        print("|", " | ".join(map(str, (cores, gpus, told, units, workers_of(config), *ends))), "|", flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
